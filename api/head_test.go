package api

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// headerLines returns n lines of a header, each as short as possible.
func headerLines(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "%c%c:\r\n", 'a'+i/26%26, 'a'+i%26)
	}
	return b.String()
}

const healthz = "GET /healthz HTTP/1.1\r\nHost: x\r\n"

// answersOn reads the statuses of n answers, and the last problem.
func answersOn(t *testing.T, conn net.Conn, name string, n int) (statuses []int, last problem) {
	t.Helper()
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(30*time.Second)))
	answers := bufio.NewReader(conn)
	for range n {
		res, err := http.ReadResponse(answers, nil)
		require.NoError(t, err, name)
		statuses = append(statuses, res.StatusCode)
		body, err := io.ReadAll(res.Body)
		require.NoError(t, err, name)
		last = problem{}
		if res.StatusCode >= 400 {
			require.NoError(t, json.Unmarshal(body, &last))
			require.True(t, res.Close)
		}
	}
	return statuses, last
}

// The server says no before the header has ended, so that the lines are not held until it does.
func TestAHeaderHasSoManyLines(t *testing.T) {
	t.Parallel()
	ca, files := secured(t)
	for name, options := range map[string][]func(*Config){"clear": nil, "with TLS": {files}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t, options...)
			addr, stop := f.running(t)
			connect := func() net.Conn {
				if options == nil {
					return dial(t, addr, "")
				}
				return dialTLS(t, addr, &tls.Config{RootCAs: ca.Pool()})
			}
			body := actions(1) + strings.Repeat("\n", 6000) // its lines do not count
			const submission = "POST /batch HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
			posted := fmt.Sprintf("%sContent-Length: %d\r\n\r\n%s", submission, len(body), body)
			chunked := fmt.Sprintf("%sTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", submission, len(body), body)
			for name, row := range map[string]struct {
				send string
				want []int
			}{
				"as many as there may be":    {healthz + headerLines(maxHeaderLines-1) + "\r\n", []int{200}},
				"one more":                   {healthz + headerLines(maxHeaderLines), []int{431}},
				"without CR":                 {strings.ReplaceAll(healthz+headerLines(maxHeaderLines), "\r", ""), []int{431}},
				"one name":                   {healthz + strings.Repeat("a:\n", 20_000), []int{431}},
				"continuations":              {healthz + "a: b\r\n" + strings.Repeat(" c\r\n", maxHeaderLines), []int{431}},
				"in the next request":        {healthz + "\r\n" + healthz + headerLines(500), []int{200, 431}},
				"each request by itself":     {strings.Repeat(healthz+headerLines(80)+"\r\n", 5), []int{200, 200, 200, 200, 200}},
				"after a body":               {posted + healthz + headerLines(500), []int{202, 431}},
				"blank lines before":         {posted + "\r\n\r\n" + healthz + headerLines(500), []int{202, 431}},
				"a body counts for nothing":  {posted + healthz + "\r\n", []int{202, 200}},
				"after a body in chunks":     {chunked + healthz + headerLines(500), []int{202, 431}},
				"nor does one in chunks":     {chunked + healthz + "\r\n", []int{202, 200}},
				"a short body does not":      {strings.ReplaceAll(posted, strings.Repeat("\n", 5000), strings.Repeat(" ", 5000)) + healthz + "\r\n", []int{202, 200}},
				"more bytes than there may":  {healthz + "A: " + strings.Repeat("b", maxHeaderBytes), []int{431}},
				"fewer bytes, in one header": {healthz + "A: " + strings.Repeat("b", maxHeaderBytes-100) + "\r\n\r\n", []int{200}},
			} {
				conn := connect()
				_, err := io.WriteString(conn, row.send)
				require.NoError(t, err, name)
				statuses, last := answersOn(t, conn, name, len(row.want))
				require.Equal(t, row.want, statuses, name)
				if row.want[len(row.want)-1] == 431 {
					require.Equal(t, kindHeaderTooLarge.problem("").Type, last.Type, name)
					_, err := conn.Read(make([]byte, 1))
					require.ErrorIs(t, err, io.EOF, name)
				}
				require.NoError(t, conn.Close())
			}
			require.NoError(t, stop())
		})
	}
}

// A head that is being read holds memory, and gives it back after the answer.
func TestLongHeadsShareABudget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setup(t, func(c *Config) { c.Auth.AllowOpenListener, c.Limits.Capacity.BodyMemory = true, 1<<20 })
		ln := newPipes()
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- f.Run(ctx, ln) }()
		long := healthz + "A: " + strings.Repeat("b", 40_000)
		begin := func() net.Conn {
			conn := ln.dial()
			_, err := io.WriteString(conn, long)
			require.NoError(t, err)
			synctest.Wait() // until the server has counted it
			return conn
		}
		finish := func(conn net.Conn) {
			_, err := io.WriteString(conn, "\r\n\r\n")
			require.NoError(t, err)
			statuses, _ := answersOn(t, conn, "held", 1)
			require.Equal(t, []int{200}, statuses)
		}
		var open []net.Conn
		for range 9 { // each counts for 112 KiB
			open = append(open, begin())
		}
		refused := ln.dial()
		go func() { _, _ = io.WriteString(refused, long) }()
		statuses, _ := answersOn(t, refused, "one more", 1)
		require.Equal(t, []int{503}, statuses)
		require.NoError(t, refused.Close())

		short := ln.dial()
		_, err := io.WriteString(short, strings.TrimSuffix(healthz, "\r\n"))
		require.NoError(t, err)
		finish(short)
		finish(open[0])
		synctest.Wait()
		again := begin()
		finish(again)
		for _, conn := range open[1:] {
			finish(conn)
		}
		for _, conn := range append(open, short, again) {
			require.NoError(t, conn.Close())
		}
		cancel()
		require.NoError(t, <-done)
	})
}

func TestLongHeadsOfOneAddressUseThreeQuartersOfTheBudget(t *testing.T) {
	t.Parallel()
	all := newConnections(nil, Capacity{BodyMemory: 1 << 20})
	begin := func(address string) *requestError {
		h, ok := newHeadConn(&conn{all: all, address: netip.MustParsePrefix(address)}).(*headConn)
		require.True(t, ok)
		h.bytes = freeHead + 38_000 // it counts for 112 KiB
		return h.check()
	}
	for range 6 {
		require.Nil(t, begin("192.0.2.1/32"))
	}
	require.Equal(t, kindLimited, begin("192.0.2.1/32").kind)
	for range 3 {
		require.Nil(t, begin("192.0.2.2/32"))
	}
	require.Equal(t, kindBusy, begin("192.0.2.2/32").kind)
}

// While an authenticated request waits, its head counts for its owner: many owners may have one address.
func TestTheHeadOfAnAuthenticatedRequestCountsForItsOwner(t *testing.T) {
	t.Parallel()
	all := newConnections(nil, Capacity{BodyMemory: 1 << 20}.WithDefaults())
	address := netip.MustParsePrefix("192.0.2.1/32")
	var open []*headConn
	for i := range 25 { // more than the share of an address, and not more than that of an owner
		h, ok := newHeadConn(&conn{all: all, address: address}).(*headConn)
		require.True(t, ok)
		h.bytes = freeHead + 30_000
		require.Nil(t, h.check(), i)
		h.changed(http.StateActive)
		require.NoError(t, h.client.claim(fmt.Sprint("key:", i%3), true))
		open = append(open, h)
	}
	require.Empty(t, all.heads.addresses)
	require.LessOrEqual(t, all.heads.inUse(), int64(25*(30_000+headStep)))
	for _, h := range open { // the next request on the connection is again one without a credential
		h.changed(http.StateIdle)
		h.bytes = freeHead + 1
		require.Nil(t, h.check())
	}
	require.Equal(t, int64(25*headStep), all.heads.addresses[address])
	for _, h := range open {
		h.changed(http.StateClosed)
	}
	require.Zero(t, all.heads.inUse())
	require.Empty(t, all.heads.owners)
}

// While net/http reads a body, it may also read a part of the next head. Wherever that part ends, the next body counts
// for nothing.
func TestThePartOfAHeadThatIsReadWithABodyMayEndAnywhere(t *testing.T) {
	t.Parallel()
	f := setup(t)
	addr, stop := f.running(t)
	const submission = "POST /batch HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
	short := fmt.Sprintf("%sContent-Length: %d\r\n\r\n%s", submission, len(actions(1)), actions(1))
	lines := strings.Repeat(" \n", 300) + actions(1)
	for _, ahead := range []int{readAhead, netHTTPBuffer} {
		for k := range 8 { // the second head is that much longer than what is read ahead
			head := fmt.Sprintf("%sContent-Length: %d\r\nA: ", submission, len(lines))
			filled := head + strings.Repeat("b", ahead-len(actions(1))-len(head)-4+k) + "\r\n\r\n"
			conn := dial(t, addr, short+filled+lines)
			statuses, _ := answersOn(t, conn, fmt.Sprint(ahead, k), 2)
			require.Equal(t, []int{202, 202}, statuses, "%d, %d", ahead, k)
			require.NoError(t, conn.Close())
		}
	}
	require.NoError(t, stop())
}

func TestAHandshakeHasSoManyBytes(t *testing.T) {
	t.Parallel()
	_, files := secured(t)
	f := setup(t, files)
	addr, stop := f.running(t)
	hello := append([]byte{1, 0, 0xea, 0x60}, make([]byte, 60_000)...) // the beginning of a message of 60,000 bytes
	var records []byte
	for part := range slices.Chunk(hello[:48<<10], 16<<10) {
		records = append(append(records, 22, 3, 1, 0x40, 0), part...)
	}
	conn := dial(t, addr, string(records))
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(60*time.Second)))
	_, err := io.Copy(io.Discard, conn)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NoError(t, stop())
	require.Contains(t, f.log.String(), errLongHandshake.Error())
}

func TestAClientThatSpeaksHTTPToTLSIsToldSo(t *testing.T) {
	t.Parallel()
	_, files := secured(t)
	f := setup(t, files)
	addr, stop := f.running(t)
	res, err := http.ReadResponse(bufio.NewReader(dial(t, addr, health)), nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusBadRequest, res.StatusCode)
	require.NoError(t, stop())
	require.Contains(t, f.log.String(), "client sent an HTTP request to an HTTPS server")
}

func TestTrailersAreNotKept(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(withPace(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(200 + len(r.Trailer))
	}), pace{time.Minute, 1}))
	defer srv.Close()
	conn := dial(t, srv.Listener.Addr().String(), "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"+headerLines(50)+"\r\n")
	statuses, _ := answersOn(t, conn, "chunked", 1)
	require.Equal(t, []int{200}, statuses)
}

func TestAQueryHasSoManyParameters(t *testing.T) {
	t.Parallel()
	f := setup(t, endpoints)
	query := strings.Repeat("&a", maxParameters)
	for _, c := range []call{
		{method: "GET", path: "/batch?limit=1" + query},
		{method: "POST", path: "/batch?target=crm" + query, headers: []string{"Content-Type: application/x-ndjson"}, body: `{"method":"GET","path":"/a"}`},
		{method: "POST", path: "/batch?target=crm" + query, headers: []string{"Content-Type: application/json"}, body: actions(1)},
		{method: "POST", path: "/api/1.0/batch?x=1" + query, headers: []string{"Content-Type: application/json", "Authorization: Bearer a"}, body: "{}"},
	} {
		w := serve(f, c.request(t))
		require.Equal(t, http.StatusBadRequest, w.Code, c.path)
		require.Contains(t, w.Body.String(), "more than 100 parameters", c.path)
	}
	require.Contains(t, serve(f, call{method: "GET", path: "/readyz?verbose"}.request(t)).Body.String(), "checks")
	require.NotContains(t, serve(f, call{method: "GET", path: "/readyz?verbose" + query}.request(t)).Body.String(), "checks")
}
