package redistest

import (
	"net"
	"sync"
	"testing"
	"time"
)

// Distant passes bytes on to a Redis server as a network with a long round trip does: each
// arrives half a trip after it was sent, however many are on the way.
type Distant struct {
	// Addr is host and port.
	Addr string

	upstream string
	trip     time.Duration
	listener net.Listener
	wg       sync.WaitGroup

	mu        sync.Mutex
	opened    int
	exchanges int
	conns     []net.Conn // nil once it is closed
}

// StartDistant puts a server a round trip away, until the end of the test. To open a connection
// takes no time.
func StartDistant(tb testing.TB, upstream string, trip time.Duration) *Distant {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatalf("listen: %v", err)
	}
	d := &Distant{Addr: l.Addr().String(), upstream: upstream, trip: trip, listener: l, conns: make([]net.Conn, 0, 16)}
	d.wg.Go(d.accept)
	tb.Cleanup(d.close)
	return d
}

// URL returns the URL of the distant server.
func (d *Distant) URL() string { return "redis://" + d.Addr + "/0" }

// Opened returns how many connections clients have opened.
func (d *Distant) Opened() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.opened
}

// Exchanges returns how often clients have said something and waited for the reply, over all connections.
func (d *Distant) Exchanges() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.exchanges
}

func (d *Distant) accept() {
	for {
		client, err := d.listener.Accept()
		if err != nil {
			return // it was closed
		}
		server, err := net.DialTimeout("tcp", d.upstream, time.Second)
		if err != nil {
			_ = client.Close() // as the server would
			continue
		}
		d.mu.Lock()
		d.opened++
		closed := d.conns == nil
		if !closed {
			d.conns = append(d.conns, client, server)
		}
		d.mu.Unlock()
		if closed {
			_, _ = client.Close(), server.Close()
			return
		}
		waits := false // the client, for a reply
		d.wg.Go(func() {
			d.carry(client, server, func() {
				if !waits {
					d.exchanges++
				}
				waits = true
			})
		})
		d.wg.Go(func() { d.carry(server, client, func() { waits = false }) })
	}
}

// chunk is what was read at one time.
type chunk struct {
	bytes []byte
	due   time.Time
}

// carry passes on what comes from one side, until that side or the other one is closed. It notes
// each part before, with the lock held.
func (d *Distant) carry(from, to net.Conn, note func()) {
	onWay := make(chan chunk, 1024)
	d.wg.Go(func() {
		defer to.Close()
		for c := range onWay {
			time.Sleep(time.Until(c.due))
			if _, err := to.Write(c.bytes); err != nil {
				_ = from.Close() // which ends the reading
			}
		}
	})
	defer close(onWay)
	for {
		buffer := make([]byte, 32<<10)
		n, err := from.Read(buffer)
		if n > 0 {
			d.mu.Lock()
			note()
			d.mu.Unlock()
			onWay <- chunk{buffer[:n], time.Now().Add(d.trip / 2)}
		}
		if err != nil {
			return
		}
	}
}

func (d *Distant) close() {
	_ = d.listener.Close()
	d.mu.Lock()
	for _, c := range d.conns {
		_ = c.Close()
	}
	d.conns = nil
	d.mu.Unlock()
	d.wg.Wait()
}
