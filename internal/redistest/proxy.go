package redistest

import (
	"bufio"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Proxy is a proxy between clients and a Redis server, which can answer commands with
// errors instead of the server. It understands pipelines, scripts, transactions and
// subscriptions.
type Proxy struct {
	// Addr is host and port.
	Addr string

	upstream string
	listener net.Listener
	wg       sync.WaitGroup

	mu    sync.Mutex
	rules []*Rule
	last  time.Time
	conns map[net.Conn]struct{}
}

// Way is what happens to a command that is answered with an error.
type Way int

// The ways.
const (
	// Either is one of the other two at random.
	Either Way = iota
	// Refused commands do not reach the server.
	Refused
	// Replaced commands reach the server: it runs them, and its reply is lost.
	Replaced
)

// Rule selects commands to answer with an error, and the error.
type Rule struct {
	// Reply is the error without the minus sign in front: "OOM command not allowed".
	Reply string
	// Share is the part of the matching commands that get the error, from 0 to 1. Zero
	// means all.
	Share float64
	// Match selects commands by their words; the first word is in capitals. The default
	// is [Work].
	Match func(words []string) bool
	// Way is what happens to the commands.
	Way Way
	// Times is the number of commands that get the error; zero means any number.
	Times int

	count int
}

// Work matches all commands except those with which a client sets up a connection.
func Work(words []string) bool {
	return !slices.Contains([]string{"HELLO", "AUTH", "SELECT", "CLIENT"}, words[0])
}

// All matches all commands.
func All([]string) bool { return true }

// StartProxy starts a proxy in front of a server, until the end of the test.
func StartProxy(tb testing.TB, upstream string) *Proxy {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatalf("listen: %v", err)
	}
	p := &Proxy{Addr: l.Addr().String(), upstream: upstream, listener: l, conns: make(map[net.Conn]struct{})}
	p.wg.Go(p.accept)
	tb.Cleanup(p.close)
	return p
}

// URL returns the URL of the server behind the proxy.
func (p *Proxy) URL() string { return "redis://" + p.Addr + "/0" }

// Answer applies a rule to commands until the caller calls stop, which returns the
// number of commands with an error. The first of several matching rules applies.
func (p *Proxy) Answer(rule Rule) (stop func() int) {
	if rule.Match == nil {
		rule.Match = Work
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	r := &rule
	p.rules = append(p.rules, r)
	return func() int {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.rules = slices.DeleteFunc(p.rules, func(other *Rule) bool { return other == r })
		return r.count
	}
}

// Last returns when the proxy last answered a command with an error.
func (p *Proxy) Last() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
}

// judge decides about a command.
func (p *Proxy) judge(words []string) (rule *Rule, way Way) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.rules {
		if r.Times > 0 && r.count == r.Times || !r.Match(words) {
			continue
		}
		if r.Share > 0 && rand.Float64() >= r.Share {
			return nil, 0
		}
		r.count++
		p.last = time.Now()
		if way = r.Way; way == Either {
			way = []Way{Refused, Replaced}[rand.IntN(2)]
		}
		return r, way
	}
	return nil, 0
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return // it was closed
		}
		server, err := net.DialTimeout("tcp", p.upstream, time.Second)
		if err != nil {
			_ = client.Close() // as the server would
			continue
		}
		if !p.keep(client, server) {
			return
		}
		c := &proxied{p: p, client: client, server: server}
		p.wg.Go(func() { c.commands(); c.close() })
		p.wg.Go(func() { c.replies(); c.close() })
	}
}

// keep records connections, to close them with the proxy. It returns false if the proxy is
// closed.
func (p *Proxy) keep(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		if p.conns == nil {
			_ = c.Close()
			continue
		}
		p.conns[c] = struct{}{}
	}
	return p.conns != nil
}

func (p *Proxy) close() {
	_ = p.listener.Close()
	p.mu.Lock()
	for c := range p.conns {
		_ = c.Close()
	}
	p.conns = nil
	p.mu.Unlock()
	p.wg.Wait()
}

// proxied is a connection of a client, and the connection to the server for it.
type proxied struct {
	p              *Proxy
	client, server net.Conn

	mu         sync.Mutex
	expected   []*expected // replies that the client expects, in order
	subscribed bool        // from then on the server sends messages without a request
}

// expected is a reply that the client waits for.
type expected struct {
	reply []byte // nil until it has arrived
	error []byte // is sent instead of reply
}

func (c *proxied) close() {
	_, _ = c.client.Close(), c.server.Close() // each of them ends the other
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	delete(c.p.conns, c.client)
	delete(c.p.conns, c.server)
}

// commands forwards the commands of the client.
func (c *proxied) commands() {
	in := bufio.NewReaderSize(c.client, 64<<10)
	for {
		words, raw, err := readCommand(in)
		if err != nil || len(words) == 0 {
			return
		}
		words[0] = strings.ToUpper(words[0])
		rule, way := c.p.judge(words)
		if !c.expect(words[0], rule, way) {
			continue
		}
		if _, err := c.server.Write(raw); err != nil {
			return
		}
	}
}

// expect queues the reply for the client, and reports whether the proxy forwards the
// command.
func (c *proxied) expect(name string, rule *Rule, way Way) (pass bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if strings.HasSuffix(name, "SUBSCRIBE") && (rule == nil || way == Replaced) {
		c.subscribed = true
	}
	var text []byte
	if rule != nil {
		text = []byte("-" + rule.Reply + "\r\n")
	}
	switch {
	case rule == nil && c.subscribed:
		return true
	case rule != nil && (c.subscribed || way == Refused):
		c.expected = append(c.expected, &expected{reply: text})
		c.flush()
		return c.subscribed && way == Replaced
	}
	c.expected = append(c.expected, &expected{error: text})
	return true
}

// replies forwards the replies of the server.
func (c *proxied) replies() {
	out := bufio.NewReaderSize(c.server, 64<<10)
	for {
		reply, err := readReply(out, nil)
		if err != nil {
			return
		}
		c.mu.Lock()
		if next := slices.IndexFunc(c.expected, func(e *expected) bool { return e.reply == nil }); next < 0 || reply[0] == '>' {
			_, err = c.client.Write(reply)
		} else {
			e := c.expected[next]
			if e.reply = reply; e.error != nil {
				e.reply = e.error
			}
			c.flush()
		}
		c.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// flush sends the replies that have arrived, in the order of the commands. The caller holds
// the lock.
func (c *proxied) flush() {
	for len(c.expected) > 0 && c.expected[0].reply != nil {
		if _, err := c.client.Write(c.expected[0].reply); err != nil {
			return // the client is gone; its reader notices
		}
		c.expected = c.expected[1:]
	}
}
