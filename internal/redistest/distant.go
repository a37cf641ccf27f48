package redistest

import (
	"net"
	"sync"
	"testing"
	"time"
)

// Distant forwards bytes to a Redis server like a network with a long round trip: each
// byte arrives half a round trip after it was sent, however many are in transit.
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
	conns     []net.Conn // nil after close
}

// StartDistant puts a round trip between a server and its clients, until the end of the test.
// Opening a connection takes no time.
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

// Opened returns the number of connections that clients have opened.
func (d *Distant) Opened() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.opened
}

// Exchanges returns how often a client has sent something and waited for the reply, over all
// connections.
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
		waits := false // whether the client waits for a reply
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

// chunk has the bytes of one read.
type chunk struct {
	bytes []byte
	due   time.Time
}

// carry forwards bytes from one side until either side is closed. It calls note before each
// chunk, while holding the lock.
func (d *Distant) carry(from, to net.Conn, note func()) {
	onWay := make(chan chunk, 1024)
	d.wg.Go(func() {
		defer to.Close()
		for c := range onWay {
			time.Sleep(time.Until(c.due))
			if _, err := to.Write(c.bytes); err != nil {
				_ = from.Close() // ends the read
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
