package faults

import (
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// weather is what a proxy does to what passes through it.
type weather struct {
	latency   time.Duration // before each piece is passed on
	bandwidth int           // bytes a second in one direction of one connection; 0 is no bound
	mute      bool          // nothing is passed on, and nobody is told
}

// proxy stands between two ends of TCP connections.
type proxy struct {
	addr, backend string

	mu      sync.Mutex
	weather weather
	conns   map[*net.TCPConn]struct{}
	closed  bool
}

func startProxy(t *testing.T, backend string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &proxy{addr: l.Addr().String(), backend: backend, conns: make(map[*net.TCPConn]struct{})}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // closed by the cleanup
			}
			go p.serve(conn.(*net.TCPConn))
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		p.mu.Lock()
		p.closed = true
		p.mu.Unlock()
		p.cut(false)
	})
	return p
}

func (p *proxy) serve(front *net.TCPConn) {
	back, err := net.Dial("tcp", p.backend)
	if err != nil {
		_ = front.Close()
		return
	}
	rear := back.(*net.TCPConn)
	p.mu.Lock()
	p.conns[front], p.conns[rear] = struct{}{}, struct{}{}
	p.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { p.pump(rear, front) })
	both.Go(func() { p.pump(front, rear) })
	both.Wait()
	p.mu.Lock()
	delete(p.conns, front)
	delete(p.conns, rear)
	p.mu.Unlock()
}

// pump passes on what one end sends until an end closes.
func (p *proxy) pump(to, from *net.TCPConn) {
	defer to.Close()
	defer from.Close()
	piece := make([]byte, 4<<10)
	for {
		n, err := from.Read(piece)
		if n > 0 && !p.pass(n) {
			return
		}
		if _, werr := to.Write(piece[:n]); err != nil || werr != nil {
			return
		}
	}
}

// pass waits as the weather has it, and reports whether the proxy still stands.
func (p *proxy) pass(n int) bool {
	now, closed := p.now()
	wait := now.latency
	if now.bandwidth > 0 {
		wait += time.Duration(n) * time.Second / time.Duration(now.bandwidth)
	}
	time.Sleep(wait)
	for now.mute && !closed {
		time.Sleep(20 * time.Millisecond)
		now, closed = p.now()
	}
	return !closed
}

func (p *proxy) now() (weather, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.weather, p.closed
}

func (p *proxy) set(w weather) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.weather = w
}

// cut closes every connection, with a reset or in order.
func (p *proxy) cut(reset bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		if reset {
			_ = c.SetLinger(0)
		}
		_ = c.Close() // it may be closed already
	}
}
