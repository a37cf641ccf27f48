package dispatch

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

var hostileRequests = flag.Int("hostile", 2500, "requests of the test against a hostile target, for each carrier")

// moment is when a hostile target sends bytes that no request asked for.
type moment int

const (
	atOnce          moment = iota // when the connection is made
	withTheLine                   // when the request line has arrived
	withTheHead                   // when the head has arrived, before the body
	withTheAnswer                 // in one write with the answer
	afterTheAnswer                // in a write of its own
	late                          // a moment after the answer, when the connection may be idle or in use
	insteadOfBodies               // it takes the body for another request, and answers that one, too
	moments
)

// surprises are what a hostile target sends. %s stands for the credentials that came over the
// connection, and %d for their length.
var surprises = []string{
	"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s",
	"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%sand more",
	"HTTP/1.1 200 OK\r\nX-Seen: %.0d%s\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nX-Len: %d\r\n\r\n%s",
	"HTTP/1.1 103 Early Hints\r\nX-Len: %d\r\nX-Seen: %s\r\n\r\n",
	"HTTP/1.1 408 Request Timeout\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
	"HTTP/1.1 413 Too Large\r\nContent-Length: %d\r\n\r\n%s",
	"HTTP/1.1 204 No Content\r\nContent-Length: %d\r\n\r\n%s",
	"HTTP/1.1 304 Not Modified\r\nContent-Length: %d\r\n\r\n%s",
	"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: %d\r\n\r\n%s",
	"HTTP/1.1 200 OK\r\nX-Len: %d\r\nX-Seen: %s", // the next answer goes on in the header
	"HTTP/1.1 200 %d%s",
	"\r\n%.0d%s",
	"%.0d%.0s\x00\xff",
}

// ending is what a hostile target does with a connection after its answer.
type ending int

const (
	keeps ending = iota
	closes
	resets
	halfCloses
	endings
)

// hostileModes is the number of combinations.
const hostileModes = int(moments) * 14 * int(endings)

// hostile is a connection of a hostile target.
type hostile struct {
	*wire
	when     moment
	surprise string
	end      ending
	seen     strings.Builder // the credentials that came over this connection
}

// surpriseNow sends the bytes, after others.
func (h *hostile) surpriseNow(before string) bool {
	return h.say(before + fmt.Sprintf(h.surprise, h.seen.Len(), h.seen.String()))
}

// serve answers requests in the mode until the connection ends.
func (h *hostile) serve() {
	if h.when == atOnce && !h.surpriseNow("") {
		return
	}
	for {
		line, err := h.in.ReadString('\n')
		if err != nil || h.when == withTheLine && !h.surpriseNow("") {
			return
		}
		req, err := http.ReadRequest(bufio.NewReader(io.MultiReader(strings.NewReader(line), &headOnly{in: h.in})))
		if err != nil {
			// It is the rest of a body that was taken for a request.
			if !h.surpriseNow("") {
				return
			}
			continue
		}
		h.seen.WriteString(req.Header.Get("Authorization") + " " + req.URL.Path + ";")
		if h.when == withTheHead && !h.surpriseNow("") {
			return
		}
		if h.when != insteadOfBodies {
			if _, err := io.CopyN(io.Discard, h.in, max(req.ContentLength, 0)); err != nil {
				return
			}
		}
		body := h.seen.String()
		answer := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", len(body))
		if req.Method != http.MethodHead {
			answer += body
		}
		switch h.when {
		case withTheAnswer:
			if !h.surpriseNow(answer) {
				return
			}
		case afterTheAnswer:
			if !h.say(answer) || !h.surpriseNow("") {
				return
			}
		case late:
			if !h.say(answer) {
				return
			}
			time.Sleep(time.Millisecond)
			if !h.surpriseNow("") {
				return
			}
		default:
			if !h.say(answer) {
				return
			}
		}
		switch h.end {
		case closes:
			return
		case resets:
			if secure, ok := h.Conn.(*tls.Conn); ok {
				h.Conn = secure.NetConn()
			}
			h.reset()
			_ = h.Close()
			return
		case halfCloses:
			if c, ok := h.Conn.(interface{ CloseWrite() error }); ok {
				_ = c.CloseWrite()
			}
			h.untilGone()
			return
		case keeps, endings:
		}
	}
}

// headOnly reads the rest of a head, and no byte after it.
type headOnly struct {
	in   *bufio.Reader
	over bool
	rest []byte
}

// Read implements io.Reader.
func (h *headOnly) Read(p []byte) (int, error) {
	if len(h.rest) == 0 {
		if h.over {
			return 0, io.EOF
		}
		line, err := h.in.ReadBytes('\n')
		if err != nil {
			return 0, err
		}
		h.over, h.rest = len(bytes.TrimRight(line, "\r\n")) == 0, line
	}
	n := copy(p, h.rest)
	h.rest = h.rest[n:]
	return n, nil
}

// attack sends requests of several owners to a target in all hostile modes, and returns how many
// results have the credential of another owner.
func attack(t *testing.T, d *Dispatcher, requests int) (crossed, answered int64) {
	t.Helper()
	const owners, senders = 5, 16
	var next, foreign, whole atomic.Int64
	smuggled := "GET /smuggled HTTP/1.1\r\nHost: h\r\nX-Rest: "
	bodies := []string{"", "", "x", smuggled, "GET / HTTP/1.1\r\nHost: h\r\n\r\n" + smuggled, strings.Repeat("x", bodyAlongTest+100_000)}
	methods := []string{"GET", "POST", "DELETE", "HEAD", "PUT", "OPTIONS", "PATCH"}
	canary := func(owner int) string { return fmt.Sprintf("canary-%d-", owner) }
	var wg sync.WaitGroup
	for range senders {
		wg.Go(func() {
			for n := int(next.Add(1)); n <= requests; n = int(next.Add(1)) {
				owner := n % owners
				a := &batch.Action{
					Method: methods[n%len(methods)], Path: fmt.Sprintf("/%d", n), Timeout: 100 * time.Millisecond, Body: []byte(bodies[n%len(bodies)]),
					Headers: []batch.Field{{Name: "Authorization", Value: "Bearer " + canary(owner) + strconv.Itoa(n)}},
				}
				resp := d.Do(context.Background(), &batch.Request{Target: "crm", Owner: fmt.Sprint("owner-", owner), BatchID: fmt.Sprint("b", owner), Index: n, Action: a})
				if resp.Result.Status > 0 {
					whole.Add(1)
				}
				said := fmt.Sprintf("%s %v %+v", resp.Result.Body, resp.Result.Headers, resp.Result.Error)
				for other := range owners {
					if other != owner && strings.Contains(said, canary(other)) {
						foreign.Add(1)
						break
					}
				}
			}
		})
	}
	wg.Wait()
	return foreign.Load(), whole.Load()
}

// bodyAlongTest is more than what either carrier writes at once with a head.
const bodyAlongTest = 64 << 10

// hostileScript serves each connection in the next mode.
func hostileScript() func(w *wire) {
	var mode atomic.Int64
	return func(w *wire) {
		n := int(mode.Add(1))
		h := &hostile{wire: w, when: moment(n % int(moments))}
		n /= int(moments)
		h.surprise, h.end = surprises[n%len(surprises)], ending(n/len(surprises)%int(endings))
		h.serve()
	}
}

// Whatever a target sends, and whenever, no result has anything of another owner. That holds
// also while the target is not suspected yet, so half of the runs suspect it for no time.
func TestAHostileTargetCrossesNoResults(t *testing.T) {
	t.Parallel()
	require.Len(t, surprises, hostileModes/int(moments)/int(endings))
	for _, lasts := range []time.Duration{0, suspectFor} {
		for _, way := range ways() {
			if way.name != "plain" && (way.name != "secured" || transportOnly) {
				continue
			}
			t.Run(fmt.Sprint(way.name, ", suspected for ", lasts), func(t *testing.T) {
				t.Parallel()
				target, d := way.reach(t, hostileScript())
				if d.targets["crm"].suspicion.lasts = lasts; lasts == 0 {
					d.targets["crm"].suspicion.drop = func() {} // idle connections are used again, too
				}
				crossed, answered := attack(t, d, *hostileRequests/2)
				require.Zero(t, crossed)
				require.Positive(t, answered)
				require.Positive(t, unexpected(t, d))
				t.Logf("%d requests in %d modes over %d connections: %d answers, %d connections with unexpected bytes, %d crossed results",
					*hostileRequests/2, hostileModes, target.conns.Load(), answered, unexpected(t, d), crossed)
			})
		}
	}
}

// With shared connections the same target crosses results, which shows that the test would notice.
func TestAHostileTargetCrossesResultsOverSharedConnections(t *testing.T) {
	t.Parallel()
	target := newRawTarget(t, hostileScript())
	d := newDispatcher(t, batch.Target{BaseURL: target.url, Connections: batch.ConnectionsShared})
	d.targets["crm"].suspicion.lasts, d.targets["crm"].suspicion.drop = 0, func() {}
	for tries := 0; ; tries++ {
		if crossed, _ := attack(t, d, 500); crossed > 0 {
			return
		}
		require.Less(t, tries, 50, "no result was crossed")
	}
}
