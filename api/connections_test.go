package api

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/api/auth"
	"github.com/batchd/batchd/internal/apikey"
)

const hundredMB = 100_000_000

// zeros is an endless body.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// refused are requests that the server refuses before it has read their bodies.
var refused = map[string]struct {
	head   string
	fill   byte
	status int
}{
	"too large":     {"POST /batch HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n", ' ', 413},
	"not JSON":      {"POST /batch HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n", 'x', 400},
	"another media": {"POST /batch HTTP/1.1\r\nHost: x\r\nContent-Type: text/html\r\n", 'x', 415},
	"no route":      {"POST /nope HTTP/1.1\r\nHost: x\r\n", 'x', 404},
	"no credential": {"POST /api/1.0/batch HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n", 'x', 401},
}

// refusing starts a server for the requests that are refused.
func refusing(t *testing.T, name string) string {
	t.Helper()
	f := setup(t, endpoints, func(c *Config) {
		if name == "too large" {
			c.Limits.MaxBody, c.Limits.MaxActionBody = 1<<20, 1<<10
		}
	})
	addr, stop := f.running(t)
	t.Cleanup(func() { require.NoError(t, stop()) })
	return addr
}

// A client that reads only when it has sent everything gets the answer, too, not a reset.
func TestARefusalReachesAClientThatIsStillSending(t *testing.T) {
	t.Parallel()
	for name, row := range refused {
		for _, chunked := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, chunked %t", name, chunked), func(t *testing.T) {
				t.Parallel()
				addr := refusing(t, name)
				length := fmt.Sprintf("Content-Length: %d", hundredMB)
				if chunked {
					length = "Transfer-Encoding: chunked"
				}
				conn := dial(t, addr, row.head+length+"\r\n\r\n")
				block := bytes.Repeat([]byte{row.fill}, 1_000_000)
				for sent := 0; sent < hundredMB; sent += len(block) {
					var err error
					if chunked {
						_, err = fmt.Fprintf(conn, "%x\r\n%s\r\n", len(block), block)
					} else {
						_, err = conn.Write(block)
					}
					require.NoError(t, err, "after %d bytes", sent)
				}
				res, err := http.ReadResponse(bufio.NewReader(conn), nil)
				require.NoError(t, err)
				require.Equal(t, row.status, res.StatusCode)
				require.True(t, res.Close)
			})
		}
	}
}

func TestARefusalReachesClientsThatUpload(t *testing.T) {
	t.Parallel()
	addr := refusing(t, "too large")
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	for _, length := range []int64{hundredMB, -1} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+addr+"/batch", io.LimitReader(zeros{}, hundredMB))
		require.NoError(t, err)
		r.Header.Set("Content-Type", mediaJSON)
		r.ContentLength = length
		res, err := client.Do(r)
		require.NoError(t, err)
		body, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Contains(t, []int{http.StatusRequestEntityTooLarge, http.StatusBadRequest}, res.StatusCode)
		require.Contains(t, string(body), "urn:problem-type:batchd:")
	}
	curl, err := exec.LookPath("curl")
	if err != nil {
		return // the clients above stand for it
	}
	for _, more := range [][]string{nil, {"-H", "Expect:"}, {"-H", "Transfer-Encoding: chunked"}} {
		cmd := exec.CommandContext(t.Context(), curl, append([]string{"-sS", "-X", "POST", "-T", "-", "-H", "Content-Type: application/json", "http://" + addr + "/batch"}, more...)...)
		cmd.Stdin = io.LimitReader(zeros{}, hundredMB)
		out, err := cmd.Output()
		if err == nil {
			require.Contains(t, string(out), "urn:problem-type:batchd:")
		} else {
			require.Contains(t, string(out), "urn:problem-type:batchd:", "%v", err)
		}
	}
}

// Who has no credential is told so before a byte of the body has come, on every endpoint.
func TestACredentialIsCheckedBeforeTheBody(t *testing.T) {
	t.Parallel()
	f := setup(t, endpoints, func(c *Config) {
		c.Auth.Modes = []auth.Mode{auth.ModePassthrough}
		c.Owner = func(_ context.Context, credential string) (string, error) { return credential, nil }
		c.Endpoints = append(c.Endpoints, Endpoint{Path: "/crm/batch", Target: "crm"})
	})
	addr, stop := f.running(t)
	for _, path := range []string{"/batch", "/batch?target=crm", "/crm/batch", "/api/1.0/batch", "/api/batch", "/v1.1/instances/i/batch/", "/v1/batch"} {
		for name, rest := range map[string]string{
			"a body that never comes":  "Content-Length: 1000\r\n\r\n",
			"a large one":              "Content-Length: 100000000\r\n\r\n",
			"chunks that never come":   "Transfer-Encoding: chunked\r\n\r\n",
			"a client that asks first": "Expect: 100-continue\r\nContent-Length: 1000\r\n\r\n",
			"one that is compressed":   "Content-Encoding: gzip\r\nContent-Length: 1000\r\n\r\n",
		} {
			conn := dial(t, addr, "POST "+path+" HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"+rest)
			require.NoError(t, conn.SetReadDeadline(time.Now().Add(20*time.Second)))
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			require.NoError(t, err, "%s: %s", path, name)
			require.Equal(t, http.StatusUnauthorized, res.StatusCode, "%s: %s", path, name)
		}
	}
	require.NoError(t, stop())
	require.Zero(t, f.memory.inUse())
}

// The keys of an old client are in the body. A body that may have them is small.
func TestABodyThatMayHaveTheCredentialIsSmall(t *testing.T) {
	t.Parallel()
	f := setup(t, endpoints, passthrough)
	w := serve(f, call{
		method: "POST", path: "/v1.1/instances/i/batch/", headers: []string{"Content-Type: text/plain"}, body: strings.Repeat(" ", maxUnknownBody+1),
	}.request(t))
	require.Equal(t, http.StatusRequestEntityTooLarge, w.Code)
}

func TestConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	const head = "GET /healthz HTTP/1.1\r\nHost: x\r\n"
	for name, row := range map[string]struct {
		limits func(*Capacity)
		status int
	}{
		"in the process":   {func(p *Capacity) { p.Connections = 3 }, http.StatusServiceUnavailable},
		"from one address": {func(p *Capacity) { p.ConnectionsPerAddress = 3 }, http.StatusTooManyRequests},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t, func(c *Config) {
				c.Limits.Capacity = c.Limits.Capacity.WithDefaults()
				row.limits(&c.Limits.Capacity)
			})
			addr, stop := f.running(t)
			ask := func(conn net.Conn, text string) *http.Response {
				_, err := io.WriteString(conn, text)
				require.NoError(t, err)
				res, err := http.ReadResponse(bufio.NewReader(conn), nil)
				require.NoError(t, err)
				return res
			}
			var open []net.Conn
			for range 3 {
				conn := dial(t, addr, "")
				require.Equal(t, http.StatusOK, ask(conn, head+"\r\n").StatusCode)
				open = append(open, conn)
			}
			res := ask(dial(t, addr, ""), head+"\r\n")
			require.Equal(t, row.status, res.StatusCode)
			require.Equal(t, "1", res.Header.Get("Retry-After"))
			require.True(t, res.Close)
			for _, conn := range open {
				require.NoError(t, conn.Close())
			}
			require.Eventually(t, func() bool {
				return ask(dial(t, addr, ""), head+"Connection: close\r\n\r\n").StatusCode == http.StatusOK
			}, 30*time.Second, 10*time.Millisecond, "there is room again")
			require.NoError(t, stop())
		})
	}
}

// A connection counts for its last owner, until it is closed.
func TestOneOwnerHasSoManyConnections(t *testing.T) {
	t.Parallel()
	f := setup(t, func(c *Config) {
		c.Auth.Modes = []auth.Mode{auth.ModePassthrough}
		c.Owner = func(_ context.Context, credential string) (string, error) { return credential, nil }
		c.Limits.Capacity.ConnectionsPerOwner = 2
	})
	addr, stop := f.running(t)
	ask := func(conn net.Conn, owner string) int {
		_, err := io.WriteString(conn, "GET /batch HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+owner+"\r\n\r\n")
		require.NoError(t, err)
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, res.Body)
		require.NoError(t, err)
		require.Equal(t, res.StatusCode == http.StatusTooManyRequests, res.Close)
		return res.StatusCode
	}
	first, second := dial(t, addr, ""), dial(t, addr, "")
	for range 3 {
		require.Equal(t, http.StatusOK, ask(first, "a"))
		require.Equal(t, http.StatusOK, ask(second, "a"))
	}
	require.Equal(t, http.StatusTooManyRequests, ask(dial(t, addr, ""), "a"))
	third := dial(t, addr, "")
	require.Equal(t, http.StatusOK, ask(third, "b"))
	require.Equal(t, http.StatusOK, ask(first, "b"), "the first connection is now another owner's")
	require.Equal(t, http.StatusOK, ask(dial(t, addr, ""), "a"))
	require.NoError(t, second.Close())
	require.Eventually(t, func() bool { return ask(dial(t, addr, ""), "a") == http.StatusOK }, 30*time.Second, 10*time.Millisecond)
	require.NoError(t, stop())
}

// A connection that is refused for its owner counts for its address until it is closed,
// also while it lingers.
func TestARefusedConnectionCountsForItsAddress(t *testing.T) {
	t.Parallel()
	key := apikey.New()
	f := setup(t, withKeys(&ring{}, key), func(c *Config) {
		c.Auth.Modes = []auth.Mode{auth.ModeKeys}
		p := &c.Limits.Capacity
		p.Connections, p.ConnectionsPerOwner, p.ConnectionsPerAddress = 20, 2, 5
	})
	addr, stop := f.running(t)
	ask := func(rest string) int {
		res, err := http.ReadResponse(bufio.NewReader(dial(t, addr, rest)), nil)
		require.NoError(t, err)
		return res.StatusCode
	}
	ofOwner := " /batch HTTP/1.1\r\nHost: x\r\nX-Batchd-Key: " + key + "\r\n"
	for range 2 {
		require.Equal(t, http.StatusOK, ask("GET"+ofOwner+"\r\n"))
	}
	refused := 0
	for range 10 { // the client has more to send, so the server does not close them at once
		refused++
		require.Equal(t, http.StatusTooManyRequests, ask("POST"+ofOwner+"Content-Type: application/json\r\nContent-Length: 1000000\r\n\r\n"))
		if ask("GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n") == http.StatusTooManyRequests {
			break
		}
	}
	require.LessOrEqual(t, refused, 5, "the address has as many connections as it may have")
	require.NoError(t, stop())
}

func TestWhatCountsAsOneClient(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		"192.0.2.7":         "192.0.2.7/32",
		"::ffff:192.0.2.7":  "192.0.2.7/32",
		"2001:db8:1:2::3":   "2001:db8:1:2::/64",
		"2001:db8:1:2:3::4": "2001:db8:1:2::/64",
	} {
		require.Equal(t, want, networkOf(&net.TCPAddr{IP: net.ParseIP(address), Port: 1}).String())
	}
	require.False(t, networkOf(&net.UnixAddr{}).IsValid())
}
