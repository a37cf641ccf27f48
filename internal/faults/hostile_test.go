package faults

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/client"
	"github.com/batchd/batchd/internal/redistest"
)

// hostility is a way in which a target does harm, until the connection is closed.
type hostility struct {
	name   string
	script func(c *hostileConn)
	// code is the error code of the action, empty for an answer that is cut.
	code string
	// unread: the target does not read the request.
	unread bool
}

// hostileConn is a connection for a script.
type hostileConn struct{ net.Conn }

func (c *hostileConn) say(text string) bool {
	_, err := io.WriteString(c, text)
	return err == nil
}

func (c *hostileConn) forever(text string) {
	text = strings.Repeat(text, 1+(32<<10)/len(text))
	for c.say(text) {
	}
}

// upTo writes a text repeatedly, up to that many bytes.
func (c *hostileConn) upTo(size int, text string) {
	text = strings.Repeat(text, 1+(32<<10)/len(text))
	for said := 0; said < size && c.say(text); said += len(text) {
	}
}

func (c *hostileConn) slowly(text string) {
	for i := 0; c.say(text[i%len(text) : i%len(text)+1]); i++ {
		time.Sleep(time.Second)
	}
}

func (c *hostileConn) untilGone() { _, _ = io.Copy(io.Discard, c) }

func (c *hostileConn) reset() { _ = c.Conn.(*net.TCPConn).SetLinger(0) }

const (
	okLine  = "HTTP/1.1 200 OK\r\n"
	chunked = okLine + "Transfer-Encoding: chunked\r\n\r\n"
	filler  = "0123456789abcdef"
)

// bomb is 64 MiB, compressed to a thousandth of that.
var bomb = func() string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	for range 1 << 10 {
		_, _ = w.Write(make([]byte, 64<<10)) // to memory
	}
	_ = w.Close()
	return b.String()
}()

var hostilities = []hostility{
	{name: "no answer", script: (*hostileConn).untilGone, code: "timeout"},
	{name: "request not read", script: func(c *hostileConn) { time.Sleep(hostileTimeout + 2*time.Second) }, code: "timeout", unread: true},
	{name: "header, a byte a second", script: func(c *hostileConn) { c.slowly(okLine + "X: " + filler) }, code: "timeout"},
	{name: "body, a byte a second", script: func(c *hostileConn) { c.say(okLine + "Content-Length: 1000\r\n\r\n"); c.slowly(filler) }, code: "timeout"},
	{name: "endless body", script: func(c *hostileConn) { c.say(okLine + "\r\n"); c.forever(filler) }},
	{name: "body of a terabyte", script: func(c *hostileConn) {
		c.say(okLine + "Content-Length: 1099511627776\r\n\r\n")
		c.forever(filler)
	}},
	{name: "endless chunks", script: func(c *hostileConn) { c.say(chunked); c.forever("10\r\n" + filler + "\r\n") }},
	{name: "gzip of 1000 to 1", script: func(c *hostileConn) {
		c.say(okLine + "Content-Encoding: gzip\r\nContent-Length: " + strconv.Itoa(len(bomb)) + "\r\n\r\n" + bomb)
		c.untilGone()
	}},
	{name: "endless 1xx", script: func(c *hostileConn) { c.forever("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n") }, code: "protocol"},
	{name: "one header of 100 MB", script: func(c *hostileConn) { c.say(okLine + "X: "); c.upTo(100<<20, filler) }, code: "protocol"},
	{name: "100 MB of headers", script: func(c *hostileConn) { c.say(okLine); c.upTo(100<<20, "X-"+filler+": "+filler+"\r\n") }, code: "protocol"},
	{name: "reset in the header", script: func(c *hostileConn) { c.say(okLine + "X: "); time.Sleep(50 * time.Millisecond); c.reset() }, code: "reset"},
	{name: "reset in the body", script: func(c *hostileConn) {
		c.say(okLine + "Content-Length: 1000\r\n\r\n" + filler)
		time.Sleep(50 * time.Millisecond)
		c.reset()
	}, code: "reset"},
}

// startHostile starts a target that treats a request according to the number in its
// path.
func startHostile(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	path := regexp.MustCompile(`/hostile/(\d+)`)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // closed by the cleanup
			}
			go func() {
				defer conn.Close()
				in := bufio.NewReader(conn)
				line, err := in.ReadString('\n')
				found := path.FindStringSubmatch(line)
				if err != nil || found == nil {
					return // a connection that was kept, or a probe
				}
				n, _ := strconv.Atoi(found[1]) // the pattern has digits
				if h := &hostilities[n]; h.unread {
					h.script(&hostileConn{conn})
					return
				}
				req, err := http.ReadRequest(bufio.NewReader(io.MultiReader(strings.NewReader(line), in)))
				if err != nil {
					return
				}
				if _, err := io.Copy(io.Discard, req.Body); err != nil {
					return
				}
				hostilities[n].script(&hostileConn{conn})
			}()
		}
	}()
	return "http://" + l.Addr().String()
}

const (
	hostileTimeout     = 2 * time.Second
	hostileConcurrency = 64
	hostileLimit       = 256 << 10
)

// A worker has a target that does harm in every way, and beside it one that is
// well. Each action ends in time and as it should, the worker's memory stays
// bounded, and the other target hardly notices: it is as fast as one that another
// worker serves at the same moment, however busy the machine is.
func TestAHostileTargetHarmsOnlyItself(t *testing.T) { //nolint:paralleltest // it compares rates, which other tests would change
	w := newWorldOn(t, redistest.Start(t).URL())
	// An API answers in so long; the other target's rate is then not that of the
	// processors, which both targets share with the worker here. Whatever else a target
	// can take from another, such as places and connections, shows all the same.
	w.base, w.target.delay = w.target.url, 500*time.Millisecond
	hostile := fmt.Sprintf("  - {name: hostile, base_url: %q, concurrency: %d, timeout: %s, max_response_body: %d, retry: {attempts: 1}}\n",
		startHostile(t), hostileConcurrency, hostileTimeout, hostileLimit)
	w.targets = hostile + fmt.Sprintf("  - {name: control, base_url: %q, concurrency: %d}\n", w.target.url, w.concurrency)
	w.startAPI()
	w.targets = hostile
	worker := w.startWorker("w0")
	w.targets, w.targetName = "", "control"
	w.startWorker("w1")
	w.sideBySide(2*w.concurrency, "warm")
	small := worker.peakMemory()

	var ratios []float64
	total := tally{}
	slowest := time.Duration(0)
	const enough = 0.5
	for round := range 3 {
		if !long && round > 0 && slices.Max(ratios) > enough {
			break
		}
		n := scale(96, 480)
		alone, control := w.sideBySide(n, fmt.Sprintf("alone%d", round))
		figure(t, "the other target's rate: alone %.0f/s, that of another worker %.0f/s, %.0f%%", alone, control, 100*alone/control)
		for over := false; !over; n /= 2 { // the measurement must end before the hostile batch does
			require.Greater(t, n, 10, "the hostile batch is over too early to measure beside it")
			bad := w.submitHostile(fmt.Sprintf("hostile%d.%d", round, n), scale(30, 120))
			beside, control := w.sideBySide(n, fmt.Sprintf("beside%d.%d", round, n))
			b, err := w.client.Get(t.Context(), bad.id, 0)
			require.NoError(t, err)
			if over = b.Counts.Pending > 0; over {
				ratios = append(ratios, beside/control)
				figure(t, "hostile target: the other one's rate: beside it %.0f/s, that of another worker %.0f/s, %.0f%%", beside, control, 100*beside/control)
			}
			w.settle(2*time.Minute, bad)
			found, longest := w.verifyHostile(bad)
			total.add(found)
			slowest = max(slowest, longest)
		}
	}
	peak := worker.peakMemory()
	figure(t, "hostile target: timeout=%s outcomes=%v, the longest attempt took %.2fs", hostileTimeout, total, slowest.Seconds())
	figure(t, "hostile target: peak memory of the worker: %d MiB, %d MiB before, with %d times %d KiB in flight",
		peak>>20, small>>20, hostileConcurrency, hostileLimit>>10)
	// An answer is in memory a few times on its way: as read, encoded, sealed, and in
	// the connection to Redis; the garbage collector doubles that.
	require.Less(t, peak, small+8*hostileConcurrency*hostileLimit+64<<20)
	require.Greater(t, slices.Max(ratios), scale(enough, 0.9), "%v", ratios)
}

// sideBySide runs two batches at a time, one at the healthy target and one at the
// target of the other worker, and returns their rates in actions per second.
func (w *world) sideBySide(n int, tag string) (beside, control float64) {
	w.t.Helper()
	var rates []float64
	batches := []*planned{plan(tag, n, http.MethodPost), plan(tag+".control", n, http.MethodPost)}
	for i, target := range []string{"default", "control"} {
		w.submit(batches[i], client.Options{Target: target})
	}
	w.settle(2*time.Minute, batches...)
	for _, p := range batches {
		b, err := w.client.Get(w.t.Context(), p.id, 0)
		require.NoError(w.t, err)
		rates = append(rates, float64(n)/b.EndedAt.Sub(b.CreatedAt).Seconds())
		found, _ := w.verify(p)
		require.Equal(w.t, tally{client.Succeeded: n}, found)
	}
	return rates[0], rates[1]
}

// submitHostile submits each hostility that many times, in turn, as GET and POST.
func (w *world) submitHostile(tag string, each int) *planned {
	w.t.Helper()
	p := &planned{tag: tag}
	for i := range each {
		for n, h := range hostilities {
			a := client.Action{ID: fmt.Sprintf("%s-%d-%d", tag, n, i), Method: http.MethodGet, Path: "/hostile/" + strconv.Itoa(n)}
			if h.unread { // more than the buffers on the way hold
				a.Method, a.BodyText = http.MethodPost, strings.Repeat("x", 1<<20)
				if i >= 8 {
					continue
				}
			} else if i%2 == 1 {
				a.Method = http.MethodPost
			}
			p.actions = append(p.actions, a)
		}
	}
	w.submit(p, client.Options{Target: "hostile"})
	return p
}

// verifyHostile checks how each action ended, and returns the longest attempt.
func (w *world) verifyHostile(p *planned) (tally, time.Duration) {
	w.t.Helper()
	found, longest, i, late := tally{}, time.Duration(0), 0, 0
	for r, err := range w.client.Results(w.t.Context(), p.id, client.Filter{}) {
		require.NoError(w.t, err)
		a := p.actions[i]
		i++
		n, err := strconv.Atoi(strings.TrimPrefix(a.Path, "/hostile/"))
		require.NoError(w.t, err)
		h := hostilities[n]
		found[r.Outcome]++
		longest = max(longest, r.Duration)
		require.Less(w.t, r.Duration, hostileTimeout+10*time.Second, h.name)
		if h.code != "timeout" && r.Error != nil && r.Error.Code == "timeout" {
			late++ // because of a busy machine
			continue
		}
		switch {
		case h.code == "":
			require.Equal(w.t, client.Succeeded, r.Outcome, "%s: %v", h.name, r.Error)
			require.True(w.t, r.Truncated, h.name)
			require.Len(w.t, r.Body, hostileLimit, h.name)
		case a.Method == http.MethodPost:
			require.Equal(w.t, client.Unknown, r.Outcome, h.name)
			require.Equal(w.t, h.code, r.Error.Code, "%s: %v", h.name, r.Error)
		default:
			require.Equal(w.t, client.Errored, r.Outcome, h.name)
			require.Equal(w.t, h.code, r.Error.Code, "%s: %v", h.name, r.Error)
		}
	}
	require.Equal(w.t, len(p.actions), i)
	require.Less(w.t, late, len(p.actions)/4, "most end as their kind does")
	return found, longest
}

// peakMemory returns the peak memory of the process, in bytes.
func (p *process) peakMemory() int {
	p.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	require.NoError(p.t, err)
	_, rest, ok := strings.Cut(string(text), "VmHWM:")
	require.True(p.t, ok)
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	require.NoError(p.t, err)
	return kib << 10
}
