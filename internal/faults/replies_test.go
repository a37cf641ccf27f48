package faults

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/client"
	"github.com/batchd/batchd/internal/redistest"
)

// refusals are error replies with which Redis, a proxy or a managed service refuses
// commands. The short form uses the first ones.
var refusals = []string{
	"ERR max number of clients reached",
	"ERR Error running script (call to f_9c4b1e): @user_script:12: -OOM command not allowed when used memory > 'maxmemory'.",
	"TOO_MANY_REQUESTS slow down",
	"NOPERM this user has no permissions to run the 'evalsha' command",
	"NOAUTH Authentication required.",
	"ERR max daily request limit exceeded. Limit: 10000, Usage: 10001.",
	"MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
	"OOM command not allowed when used memory > 'maxmemory'.",
	"READONLY You can't write against a read only replica.",
	"LOADING Redis is loading the dataset in memory",
	"BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
	"UNKILLABLE Sorry the script already executed write commands against the dataset.",
	"NOREPLICAS Not enough good replicas to write.",
	"CLUSTERDOWN The cluster is down",
	"MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
	"ERR unknown reason",
	"",
}

// endsWithin is the time after the last error reply within which every action has ended,
// on a machine that is not busy.
const endsWithin = 15 * time.Second

// Redis answers three of ten commands with an error, after or without running them.
// Clients that submit are asked to come back, nothing is lost or sent twice, and soon
// afterwards every batch has ended.
func TestErrorRepliesOfRedisLoseNothing(t *testing.T) {
	scenario(t)
	w := newWorld(t)
	w.target.delay = 10 * time.Millisecond
	proxy := redistest.StartProxy(t, w.redis.Addr)
	w.redisURL = proxy.URL()
	w.startAPI()
	w.startWorker("w0")
	worker := w.startWorker("w1")
	for n, text := range scale(refusals[:2], refusals) {
		w.refuse(proxy, n, redistest.Rule{Reply: text, Share: 0.3}, func() {})
	}
	// Errors also occur while clients set up connections, and while a worker is
	// replaced.
	w.refuse(proxy, len(refusals), redistest.Rule{Reply: refusals[0], Share: 0.3, Match: redistest.All}, func() {
		worker.signal(syscall.SIGTERM)
		require.Zero(t, worker.exit(40*time.Second))
		w.startWorker("w2")
	})
}

// refuse refuses commands while clients submit and another event happens.
func (w *world) refuse(proxy *redistest.Proxy, n int, rule redistest.Rule, meanwhile func()) {
	t := w.t
	t.Helper()
	calm := w.unhindered(n)
	flying := plan(fmt.Sprintf("flying%d", n), 200, http.MethodPost, http.MethodGet)
	w.submit(flying, client.Options{})
	eventually(t, time.Minute, func() bool { return w.target.seen(flying.tag) > 20 }, "nothing is under way")
	stop := proxy.Answer(rule)
	ask := w.startAsking(n, flying.id)
	until := time.After(scale(1500*time.Millisecond, 4*time.Second))
	meanwhile()
	<-until
	accepted := ask.stop()
	refused := stop()
	last := proxy.Last()
	all := append(accepted, flying)
	w.settle(time.Until(last.Add(endsWithin+calm)), all...)
	ended := time.Since(last)
	sum := w.verifyAll(all)
	figure(t, "%d commands answered with -%.60s: answers=%v, %d batches, outcomes=%v, all ended %.1fs after the last reply, where it takes %.1fs without them",
		refused, rule.Reply, ask.kinds, len(all), sum, ended.Seconds(), calm.Seconds())
	require.Positive(t, refused)
	require.Empty(t, ask.wrong)
	require.NotEmpty(t, accepted)
	total := 0
	for _, p := range all {
		total += len(p.actions)
	}
	require.Equal(t, tally{client.Succeeded: total}, sum, "no worker died, so each result is known")
	require.Zero(t, w.target.count(func(v *visit) bool { return v.method == http.MethodPost && len(w.target.byID[v.id]) > 1 }),
		"POSTs were sent twice")
}

// unhindered returns the duration of some actions without refusals. A busy machine
// needs that long for the remaining actions, in addition to the delay of the refusals.
func (w *world) unhindered(n int) time.Duration {
	w.t.Helper()
	p := plan(fmt.Sprintf("calm%d", n), 400, http.MethodPost, http.MethodGet)
	began := time.Now()
	w.submit(p, client.Options{})
	w.settle(time.Minute, p)
	return time.Since(began)
}

// asking is a set of clients that make all kinds of requests, and repeat none.
type asking struct {
	w      *world
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu       sync.Mutex
	kinds    map[string]int
	wrong    []string
	accepted []*planned
}

func (w *world) startAsking(n int, earlier string) *asking {
	ctx, cancel := context.WithCancel(w.t.Context())
	a := &asking{w: w, cancel: cancel, kinds: map[string]int{}}
	every := func(kind, method, path string, body func(tag string) *planned) {
		a.wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				var p *planned
				var text []byte
				if body != nil {
					p = body(fmt.Sprintf("%s%d.%d", kind, n, i))
					text = p.submission(w.t)
				}
				a.ask(kind, method, path, text, p)
			}
		})
	}
	few := func(tag string) *planned { return plan(tag, 5, http.MethodPost, http.MethodGet) }
	many := func(tag string) *planned { return plan(tag, 150, http.MethodPost, http.MethodGet) }
	for i := range 3 {
		every("few"+strconv.Itoa(i), http.MethodPost, "/batch", few)
	}
	every("many", http.MethodPost, "/batch", many)
	every("get", http.MethodGet, "/batch/"+earlier, nil)
	every("results", http.MethodGet, "/batch/"+earlier+"/results", nil)
	every("list", http.MethodGet, "/batch", nil)
	every("readyz", http.MethodGet, "/readyz", nil)
	a.wg.Go(func() {
		for ctx.Err() == nil {
			a.ask("asana", http.MethodPost, "/asana", []byte(`{"data":{"actions":[{"method":"get","relative_path":"/do/asana"}]}}`), nil)
		}
	})
	w.t.Cleanup(func() { a.stop() })
	return a
}

// ask makes one request. It records an answer that is neither the expected one nor a
// request to come back.
func (a *asking) ask(kind, method, path string, body []byte, p *planned) {
	got, err := a.w.ask(kind, method, path, body, "Authorization", "Bearer test")
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil {
		// A part of the results must not be mistaken for all of them.
		if kind != "results" || !errors.Is(err, io.ErrUnexpectedEOF) {
			a.wrong = append(a.wrong, kind+": "+err.Error())
		}
		return
	}
	a.kinds[strings.TrimRight(kind, "0123456789")+" "+strconv.Itoa(got.status)]++
	switch {
	case got.status == http.StatusAccepted && p != nil:
		p.id = strings.TrimPrefix(got.header.Get("Location"), "/batch/")
		a.accepted = append(a.accepted, p)
	case got.status == http.StatusOK:
	case got.status == http.StatusServiceUnavailable && got.header.Get("Retry-After") != "":
	default:
		a.wrong = append(a.wrong, fmt.Sprintf("%s: %d %.200s", kind, got.status, got.body))
	}
}

// stop returns the batches that were accepted.
func (a *asking) stop() []*planned {
	a.cancel()
	a.wg.Wait()
	return a.accepted
}
