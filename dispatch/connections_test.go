package dispatch

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

// kept is a server that notes which owners' requests came over each connection.
type kept struct {
	*httptest.Server

	mu     sync.Mutex
	conns  [][]string // the owners of the requests over each connection
	closes int        // requests that end their connection
}

// connKey is the key of a connection's number in the context of its requests.
type connKey struct{}

// newKept starts a server, over TLS or HTTP/2 if the kind says so, and a dispatcher for it.
func newKept(t *testing.T, kind string, target batch.Target) (*kept, *Dispatcher) {
	t.Helper()
	k := &kept{}
	k.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		k.mu.Lock()
		defer k.mu.Unlock()
		n := r.Context().Value(connKey{}).(int)
		k.conns[n] = append(k.conns[n], r.Header.Get("Authorization"))
		if r.Close {
			k.closes++
		}
		_, _ = io.WriteString(w, "hi")
	}))
	k.Config.ErrorLog = log.New(io.Discard, "", 0)
	k.Config.ConnContext = func(ctx context.Context, _ net.Conn) context.Context {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.conns = append(k.conns, nil)
		return context.WithValue(ctx, connKey{}, len(k.conns)-1)
	}
	switch k.EnableHTTP2 = kind == "http2"; kind {
	case "tls", "http2":
		k.StartTLS()
	default:
		k.Start()
	}
	t.Cleanup(k.Close)
	target.BaseURL = k.URL
	d := newDispatcher(t, target)
	if kind == "transport" {
		overTransport(t, d)
	}
	if k.TLS != nil {
		roots := x509.NewCertPool()
		roots.AddCert(k.Certificate())
		d.targets["crm"].transport.TLSClientConfig.RootCAs = roots
	}
	return k, d
}

// send makes one request for an owner.
func (k *kept) send(t *testing.T, d *Dispatcher, owner string) {
	t.Helper()
	resp := d.Do(t.Context(), &batch.Request{Target: "crm", Owner: owner, Action: &batch.Action{
		Method: "POST", Path: "/", Headers: []batch.Field{{Name: "Authorization", Value: owner}}, Body: []byte("x"),
	}})
	require.Equal(t, 200, resp.Result.Status, "%+v", resp.Result.Error)
	require.Equal(t, "hi", string(resp.Result.Body))
}

// connections returns the owners whose requests came over each connection.
func (k *kept) connections() (all []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, owners := range k.conns {
		if len(owners) > 0 {
			all = append(all, strings.Join(owners, ","))
		}
	}
	return all
}

// expect sends requests of some owners, and checks which connections they take. net/http gives
// up a connection if the goroutine that wrote a request has no turn for 50 ms after it, so on a
// busy machine it takes several tries.
func expect(t *testing.T, kind string, target batch.Target, owners string, want []string) (*kept, *Dispatcher) {
	t.Helper()
	for tries := 1; ; tries++ {
		k, d := newKept(t, kind, target)
		for owner := range strings.SplitSeq(owners, ",") {
			k.send(t, d, owner)
		}
		require.Zero(t, unexpected(t, d))
		if slices.Equal(want, k.connections()) || tries == 20 {
			require.Equal(t, want, k.connections())
			return k, d
		}
	}
}

// everyCarrier runs a test for both carriers and all versions of HTTP.
func everyCarrier(t *testing.T, test func(t *testing.T, kind string)) {
	t.Helper()
	for _, kind := range []string{"plain", "transport", "tls", "http2"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			test(t, kind)
		})
	}
}

func TestAConnectionServesWhatItsSettingSays(t *testing.T) {
	t.Parallel()
	for mode, want := range map[string][]string{
		"":                        {"a,a,a", "b,b"},
		batch.ConnectionsPerOwner: {"a,a,a", "b,b"},
		batch.ConnectionsShared:   {"a,b,a,b,a"},
		batch.ConnectionsNone:     {"a", "b", "a", "b", "a"},
	} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			everyCarrier(t, func(t *testing.T, kind string) {
				t.Helper()
				k, _ := expect(t, kind, batch.Target{Connections: mode}, "a,b,a,b,a", want)
				if closes := 5; mode == batch.ConnectionsNone && kind != "http2" {
					require.Equal(t, closes, k.closes, "the target is told")
				} else {
					require.Zero(t, k.closes)
				}
			})
		})
	}
}

func TestIdleConnectionsOfTheOwnerThatWasUsedLeastRecentlyGo(t *testing.T) {
	t.Parallel()
	everyCarrier(t, func(t *testing.T, kind string) {
		t.Helper()
		k, d := expect(t, kind, batch.Target{Concurrency: 2}, "a,b,a,c,a,c,b,c", []string{"a,a,a", "b", "c,c,c", "b"})
		for i := range 20 {
			k.send(t, d, fmt.Sprint("owner", i))
		}
		if c, ok := d.targets["crm"].carrier.(*standardCarrier); ok {
			c.mu.Lock()
			defer c.mu.Unlock()
			require.Equal(t, 2, c.idle)
			require.Equal(t, 2, c.keys.Len(), "nothing is kept of owners without connections")
			require.Len(t, c.byKey, 2)
		}
	})
}

// Many owners at once never share a connection.
func TestOwnersAtOnceShareNoConnection(t *testing.T) {
	t.Parallel()
	everyCarrier(t, func(t *testing.T, kind string) {
		t.Helper()
		k, d := newKept(t, kind, batch.Target{Concurrency: 5})
		var wg sync.WaitGroup
		for sender := range 8 {
			wg.Go(func() {
				for i := range 25 {
					k.send(t, d, fmt.Sprint("owner", (sender*i)%7))
				}
			})
		}
		wg.Wait()
		total := 0
		for _, requests := range k.connections() {
			owners := strings.Split(requests, ",")
			total += len(owners)
			for _, owner := range owners {
				require.Equal(t, owners[0], owner)
			}
		}
		require.Equal(t, 8*25, total)
	})
}

// lines is a log in which every line ends with a line feed.
type lines struct {
	mu sync.Mutex
	bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Buffer.Write(p)
}

func (l *lines) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.String()
}

func (l *lines) count() int { return strings.Count(l.text(), "\n") }

func TestATargetWithUnexpectedBytesGetsOneRequestPerConnection(t *testing.T) {
	t.Parallel()
	everyWay(t, func(t *testing.T, reach func(t *testing.T, script func(w *wire)) (*rawTarget, *Dispatcher)) {
		t.Helper()
		out := &lines{}
		var surplus atomic.Bool
		surplus.Store(true)
		target, d := reach(t, func(w *wire) {
			for w.request() != nil {
				if answer := ok("", "hi"); surplus.Load() {
					w.say(answer + "more")
				} else {
					w.say(answer)
				}
			}
		})
		s := d.targets["crm"].suspicion
		s.log = slog.New(slog.NewTextHandler(out, nil))
		send := func(conns int64) {
			t.Helper()
			require.Equal(t, 200, do(t, d, batch.Action{Method: "POST"}).Result.Status)
			require.Equal(t, conns, target.conns.Load())
		}
		for n := range int64(3) { // each has unexpected bytes
			send(n + 1)
		}
		require.Equal(t, 3, unexpected(t, d))
		require.Eventually(t, func() bool { return out.count() > 0 }, 30*time.Second, time.Millisecond)
		require.Equal(t, 1, out.count(), "once, not for each connection")
		require.Contains(t, out.text(), "target=crm")
		require.NotContains(t, out.text(), "more", "nothing that the target sent")

		surplus.Store(false)
		for n := range int64(3) {
			send(n + 4)
		}
		s.until.Store(1) // the minute is over
		for again := false; !again; {
			before := target.conns.Load()
			require.Equal(t, 200, do(t, d, batch.Action{Method: "POST"}).Result.Status)
			again = target.conns.Load() == before // but for a busy machine, the second time; see expect
		}
		surplus.Store(true)
		require.Equal(t, 200, do(t, d, batch.Action{Method: "POST"}).Result.Status)
		require.Eventually(t, func() bool { return out.count() == 2 }, 30*time.Second, time.Millisecond)
		require.Equal(t, 4, unexpected(t, d))
	})
}

func TestBytesOverAnIdleConnectionAreUnexpected(t *testing.T) {
	t.Parallel()
	everyWay(t, func(t *testing.T, reach func(t *testing.T, script func(w *wire)) (*rawTarget, *Dispatcher)) {
		t.Helper()
		more, said := make(chan bool), make(chan bool)
		target, d := reach(t, func(w *wire) {
			for w.request() != nil {
				w.say(ok("", "hi"))
				if w.number == 1 {
					<-more
					w.say(ok("", "evil"))
					close(said)
				}
			}
		})
		require.Equal(t, 200, do(t, d, batch.Action{Method: "POST"}).Result.Status)
		close(more)
		<-said
		if d.targets["crm"].transport != nil { // its reader notices
			require.Eventually(t, func() bool { return unexpected(t, d) == 1 }, 30*time.Second, time.Millisecond)
		}
		require.Equal(t, "hi", string(do(t, d, batch.Action{Method: "POST"}).Result.Body))
		require.EqualValues(t, 2, target.conns.Load())
		require.Equal(t, 1, unexpected(t, d))
	})
}

// A target may refuse a body that it has not read. But one that succeeds without the body may
// take the body for another request.
func TestAnAnswerBeforeTheEndOfTheRequestEndsTheConnection(t *testing.T) {
	t.Parallel()
	for answer, counted := range map[string]int{
		"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nhi":                                                     0,
		"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 503 Busy\r\nContent-Length: 2\r\n\r\nhi":                           0,
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi":                                                            1,
		"HTTP/1.1 302 Found\r\nContent-Length: 2\r\n\r\nhi":                                                         1,
		"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n": 1,
	} {
		t.Run(strings.Join(strings.Fields(answer)[1:3], " "), func(t *testing.T) {
			t.Parallel()
			everyWay(t, func(t *testing.T, reach func(t *testing.T, script func(w *wire)) (*rawTarget, *Dispatcher)) {
				t.Helper()
				answered := make(chan bool)
				target, d := reach(t, func(w *wire) {
					if w.number > 1 {
						sayOK(w)
						return
					}
					_, _ = w.in.ReadString('\n')
					w.say(answer)
					<-answered
					w.untilGone() // reads the body after all
				})
				resp := do(t, d, batch.Action{Method: "POST", Body: make([]byte, 24<<20)})
				require.Nil(t, resp.Result.Error)
				require.Equal(t, "hi", string(resp.Result.Body))
				close(answered)
				require.Equal(t, counted, unexpected(t, d))
				require.Equal(t, 200, do(t, d, batch.Action{Method: "POST"}).Result.Status)
				require.EqualValues(t, 2, target.conns.Load(), "the connection is not used again")
			})
		})
	}
}

func sayOK(w *wire) {
	for w.request() != nil {
		w.say(ok("", "hi"))
	}
}

// Such authentication belongs to a connection, which therefore serves no other request.
func TestAConnectionThatATargetAuthenticatesIsNotKept(t *testing.T) {
	t.Parallel()
	for header, conns := range map[string]int64{
		"WWW-Authenticate: Negotiate": 2, "www-authenticate: Basic realm=\"x\", NTLM TlRM": 2, "Proxy-Authenticate: NTLM": 2, "Persistent-Auth: true": 2,
	} {
		t.Run(header, func(t *testing.T) {
			t.Parallel()
			everyWay(t, func(t *testing.T, reach func(t *testing.T, script func(w *wire)) (*rawTarget, *Dispatcher)) {
				t.Helper()
				target, d := reach(t, func(w *wire) {
					for w.request() != nil {
						w.say("HTTP/1.1 401 Unauthorized\r\n" + header + "\r\nContent-Length: 2\r\n\r\nhi")
					}
				})
				for range 2 {
					require.Equal(t, 401, do(t, d, batch.Action{Method: "POST"}).Result.Status)
				}
				require.Equal(t, conns, target.conns.Load())
				require.Zero(t, unexpected(t, d))
			})
		})
	}
}
