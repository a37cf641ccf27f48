package api

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/api/auth"
	"github.com/batchd/batchd/internal/batch"
)

// A client that holds memory which others need must send at the rate of what it holds.
func TestABodyMustMoveWhenMemoryIsScarce(t *testing.T) {
	t.Parallel()
	for budget, cut := range map[int64]bool{10 << 20: true, 256 << 20: false} {
		pacedWith(t, func(t *testing.T, f *fixture, dial func() net.Conn) {
			t.Helper()
			conn := dial()
			_, err := io.WriteString(conn, strings.Replace(uploadHead, "100000", "100000000", 1)+strings.Repeat("x", 1<<20))
			require.NoError(t, err)
			synctest.Wait()
			require.Equal(t, cut, f.memory.inUse() > budget/2, "%d", f.memory.inUse())
			answer := make(chan int, 1)
			go func() {
				res, err := http.ReadResponse(bufio.NewReader(conn), nil)
				if err == nil {
					answer <- res.StatusCode
				}
			}()
			ended := false
			for range 300 {
				if _, err = io.WriteString(conn, strings.Repeat("x", 300)); err != nil {
					ended = true
					break
				}
				time.Sleep(time.Second)
			}
			require.Equal(t, cut, ended)
			if cut {
				require.Equal(t, http.StatusRequestTimeout, <-answer)
			}
		}, func(c *Config) { c.Limits.Capacity.BodyMemory = budget })
	}
}

// pacedWith runs clients of the API in a bubble.
func pacedWith(t *testing.T, clients func(t *testing.T, f *fixture, dial func() net.Conn), options ...func(*Config)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := setup(t, options...)
		ln := newPipes()
		srv := &http.Server{Handler: f.Handler(), ReadHeaderTimeout: time.Hour}
		done := make(chan error, 1)
		go func() { done <- srv.Serve(ln) }()
		var open []net.Conn
		clients(t, f, func() net.Conn {
			conn := ln.dial()
			open = append(open, conn)
			return conn
		})
		for _, conn := range open {
			require.NoError(t, conn.Close())
		}
		require.NoError(t, srv.Close())
		<-done
		synctest.Wait()
		require.Zero(t, f.memory.inUse())
		require.Empty(t, f.memory.addresses)
	})
}

func TestInventedCredentialsOfOneAddressHoldThreeQuartersOfTheBudget(t *testing.T) {
	t.Parallel()
	f := setup(t, endpoints, func(c *Config) {
		c.Auth.Modes, c.Limits.Capacity.BodyMemory = []auth.Mode{auth.ModePassthrough}, 20<<20
		c.Owner = func(_ context.Context, credential string) (string, error) { return credential, nil }
	})
	var ends []func() *httptest.ResponseRecorder
	for i := range 60 {
		c := unfinished(200 << 10)
		c.headers[1] = "Authorization: Bearer invented-" + string(rune('a'+i%4))
		ends = append(ends, f.reading(t, c))
	}
	require.LessOrEqual(t, f.memory.inUse(), int64(15<<20))
	require.Greater(t, f.memory.inUse(), int64(10<<20))
	r := call{method: "POST", path: "/batch", headers: []string{"Authorization: Bearer honest"}, body: two}.request(t)
	r.RemoteAddr = "198.51.100.7:1"
	require.Equal(t, http.StatusAccepted, serve(f, r).Code, "another address has room")
	limited := 0
	for _, end := range ends {
		if w := end(); w.Code == http.StatusTooManyRequests {
			limited++
			require.Equal(t, "1", w.Header().Get("Retry-After"))
		}
	}
	require.Positive(t, limited)
	require.Zero(t, f.memory.inUse())
	require.Empty(t, f.memory.addresses)
}

// slowReaders are requests for large answers, whose clients read little of them.
var slowReaders = map[string]func(t *testing.T, f *fixture) string{
	"a dialect": func(*testing.T, *fixture) string {
		body := `{"requests":[` + strings.TrimSuffix(strings.Repeat(`{"method":"GET","path":"/a"},`, 60), ",") + `]}`
		return "POST /api/batch HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a\r\nContent-Type: application/json\r\nContent-Length: 1754\r\n\r\n" + body
	},
	"results": func(t *testing.T, f *fixture) string {
		t.Helper()
		return f.ended(t, "GET", "/results", "application/json")
	},
	"NDJSON":     func(t *testing.T, f *fixture) string { t.Helper(); return f.ended(t, "GET", "/results", mediaNDJSON) },
	"a document": func(t *testing.T, f *fixture) string { t.Helper(); return f.ended(t, "GET", "", "application/json") },
}

func (f *fixture) ended(t *testing.T, method, path, media string) string {
	t.Helper()
	return method + " /batch/" + f.completed(t, 60, 20_000) + path + " HTTP/1.1\r\nHost: x\r\nAccept: " + media + "\r\n\r\n"
}

func largeAnswers(budget int64) func(*Config) {
	return func(c *Config) {
		c.Endpoints = []Endpoint{{Path: "/api/batch", Dialect: "requests", Target: "crm", MaxActions: 100, Wait: time.Minute}}
		c.Limits.Capacity.BodyMemory = budget
	}
}

// Answers count for the budget until the client has taken them.
func TestAnswersShareTheBudget(t *testing.T) {
	t.Parallel()
	for name, request := range slowReaders {
		pacedWith(t, func(t *testing.T, f *fixture, dial func() net.Conn) {
			t.Helper()
			f.store.run = func(int, *batch.Action) *batch.Result { return succeeded(strings.Repeat("x", 20_000)) }
			text := request(t, f)
			short := 0
			var conns []*bufio.Reader
			for range 60 {
				conn := dial()
				_, err := io.WriteString(conn, text)
				require.NoError(t, err)
				conns = append(conns, bufio.NewReaderSize(conn, 64))
				synctest.Wait()
				require.LessOrEqual(t, f.memory.inUse(), int64(5<<20), name)
			}
			require.Greater(t, f.memory.inUse(), int64(5<<20/2), name)
			for _, in := range conns[55:] {
				line, err := in.ReadString('\n')
				require.NoError(t, err)
				if !strings.Contains(line, "200") {
					short++
					require.Contains(t, line, "503")
					continue
				}
				var rest strings.Builder
				for !strings.Contains(rest.String(), `"truncated":true`) && !strings.Contains(rest.String(), `"results_next":`) && rest.Len() < 20_000 {
					b, err := in.ReadByte()
					require.NoError(t, err)
					rest.WriteByte(b)
				}
				if rest.Len() < 20_000 {
					short++
				}
			}
			require.Equal(t, 5, short, "%s: there was no room for the last ones", name)
		}, largeAnswers(5<<20))
	}
}

// A client that takes an answer slowly is cut off when memory is scarce.
func TestAnAnswerMustMoveWhenMemoryIsScarce(t *testing.T) {
	t.Parallel()
	for name, request := range slowReaders {
		small := int64(2 << 20)
		if name == "a document" { // it begins with few results
			small = 1 << 20
		}
		for budget, cut := range map[int64]bool{small: true, 256 << 20: false} {
			pacedWith(t, func(t *testing.T, f *fixture, dial func() net.Conn) {
				t.Helper()
				f.store.run = func(int, *batch.Action) *batch.Result { return succeeded(strings.Repeat("x", 20_000)) }
				text := request(t, f)
				var conns []net.Conn
				for range 6 {
					conn := dial()
					_, err := io.WriteString(conn, text)
					require.NoError(t, err)
					conns = append(conns, conn)
					synctest.Wait()
				}
				held := f.memory.inUse()
				require.Equal(t, cut, held > budget/2, "%s: %d", name, held)
				some := make([]byte, 1000)
				ended := 0
				for range 300 {
					ended = 0
					for _, conn := range conns {
						_ = conn.SetReadDeadline(time.Now().Add(time.Second)) // fails if the server has ended the connection
						if _, err := conn.Read(some); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
							ended++
						}
					}
					time.Sleep(time.Second)
				}
				synctest.Wait()
				if cut {
					require.Positive(t, ended, name)
					require.LessOrEqual(t, f.memory.inUse(), budget/2, name)
				} else {
					require.Zero(t, ended, "%s: 1000 bytes a second are enough", name)
				}
			}, largeAnswers(budget))
		}
	}
}
