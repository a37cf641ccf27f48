package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/client"
)

// death is one kill -9 of a worker.
type death struct {
	worker string
	at     time.Time // the process was gone by then
	flying int       // requests of it that the target held just before
}

// Workers are killed at random while batches of GET and POST run. Every action ends, no
// POST is sent twice, every GET succeeds, and no more actions end as unknown than the
// killed workers had in flight.
func TestKilledWorkersLoseAndRepeatNothing(t *testing.T) {
	scenario(t)
	rounds, size, pause := scale(4, 20), scale(250, 500), scale(2*time.Second, 4*time.Second)
	w := newWorld(t)
	w.startAPI()
	workers := make([]*process, 4)
	for i := range workers {
		workers[i] = w.startWorker(fmt.Sprintf("w%d", i))
	}
	watch := watchUnknowns(w)
	var batches []*planned
	var deaths []death
	for round := range rounds {
		p := plan(fmt.Sprintf("k%d", round), size, http.MethodGet, http.MethodPost)
		w.submit(p, client.Options{WebhookURL: w.receiver.url + "/hook"})
		watch.follow(p)
		batches = append(batches, p)
		enough := size/5 + rand.N(size/2)
		eventually(t, time.Minute, func() bool { return w.target.seen(p.tag) >= enough }, "the target saw %d of %s", w.target.seen(p.tag), p.tag)
		i := rand.N(len(workers))
		name := fmt.Sprintf("w%d", i)
		flying := w.target.flying(name)
		workers[i].kill()
		deaths = append(deaths, death{worker: name, at: time.Now(), flying: flying})
		workers[i] = w.startWorker(name)
		time.Sleep(pause)
	}
	w.settle(150*time.Second, batches...)
	last := time.Since(deaths[len(deaths)-1].at)
	seen := watch.stop()
	sum := w.verifyAll(batches)

	var held, stranded []time.Duration
	for round, p := range batches {
		for i, a := range p.actions {
			visits := w.target.of(a.ID)
			killed := diedHolding(deaths, visits)
			switch {
			case a.Method == http.MethodGet && len(visits) > 1:
				held = append(held, visits[len(visits)-1].ended.Sub(killed.at))
			case !seen[p.id][i].IsZero():
				held = append(held, seen[p.id][i].Sub(killed.at))
			case len(visits) == 1:
				// A worker took the task from the queue and died before it began the
				// action.
				if late := visits[0].began.Sub(deaths[round].at); late > 5*time.Second {
					stranded = append(stranded, late)
				}
			}
		}
	}
	flying := 0
	for _, d := range deaths {
		flying += d.flying
	}
	figure(t, "killed workers: kills=%d actions=%d outcomes=%v in_flight_at_kills=%d", len(deaths), rounds*size, sum, flying)
	figure(t, "killed workers: from the kill to the resolution of what was begun: %s", quantiles(held))
	figure(t, "killed workers: from the kill to the start of what was taken and not begun: %s", quantiles(stranded))
	figure(t, "killed workers: last batch ended %.1fs after the last kill", last.Seconds())

	require.Equal(t, rounds*size, sum[client.Succeeded]+sum[client.Unknown], "%v", sum)
	require.LessOrEqual(t, sum[client.Unknown], len(deaths)*concurrency)
	require.GreaterOrEqual(t, sum[client.Succeeded], rounds*size/2, "GETs were lost: %v", sum)
	require.NotEmpty(t, held, "no kill hit anything in flight")
	slices.Sort(held)
	require.Less(t, quantile(held, 0.99), 15*time.Second)
	w.requireHooks(150*time.Second, batches)
}

// diedHolding returns the death that the first of the visits did not survive.
func diedHolding(deaths []death, visits []visit) death {
	if len(visits) > 0 {
		for _, d := range deaths {
			if d.worker == visits[0].worker && !d.at.Before(visits[0].began) {
				return d
			}
		}
	}
	return death{at: time.Now()}
}

// requireHooks waits until the webhook of every batch was received.
func (w *world) requireHooks(within time.Duration, all []*planned) {
	w.t.Helper()
	repeated := w.awaitHooks(within, all)
	figure(w.t, "webhooks: batches=%d told=%d repeated=%d", len(all), len(all), repeated)
}

// awaitHooks waits until the webhook of every batch was received, once or more often
// with one webhook-id. It returns the number of repeated webhooks.
func (w *world) awaitHooks(within time.Duration, all []*planned) int {
	w.t.Helper()
	repeated := 0
	for _, p := range all {
		eventually(w.t, within, func() bool { return len(w.receiver.about(p.id)) > 0 }, "no webhook of %s", p.tag)
		hooks := w.receiver.about(p.id)
		for _, h := range hooks {
			require.Equal(w.t, hooks[0].id, h.id)
			require.True(w.t, h.event.Batch.Status.Terminal())
			require.NoError(w.t, p.consistent(&h.event.Batch))
		}
		repeated += len(hooks) - 1
	}
	return repeated
}

// unknowns records when actions were first read as unknown, and checks at each read
// that the counts add up.
type unknowns struct {
	w      *world
	mu     sync.Mutex
	open   []*planned
	seen   map[string]map[int]time.Time
	cancel context.CancelFunc
	ended  chan struct{}
}

func watchUnknowns(w *world) *unknowns {
	ctx, cancel := context.WithCancel(w.t.Context())
	u := &unknowns{w: w, seen: make(map[string]map[int]time.Time), cancel: cancel, ended: make(chan struct{})}
	w.t.Cleanup(func() { u.stop() })
	go func() {
		defer close(u.ended)
		for {
			u.look(ctx)
			select {
			case <-ctx.Done():
				return
			case <-time.After(200 * time.Millisecond):
			}
		}
	}()
	return u
}

func (u *unknowns) follow(p *planned) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.open = append(u.open, p)
	u.seen[p.id] = make(map[int]time.Time)
}

func (u *unknowns) look(ctx context.Context) {
	u.mu.Lock()
	open := slices.Clone(u.open)
	u.mu.Unlock()
	for _, p := range open {
		b, err := u.w.client.Get(ctx, p.id, 0)
		if err == nil {
			err = p.consistent(b)
		}
		for r, rerr := range u.w.client.Results(ctx, p.id, client.Filter{Outcomes: []client.Outcome{client.Unknown}}) {
			if rerr != nil {
				err = rerr
				break
			}
			u.mu.Lock()
			if u.seen[p.id][r.Index].IsZero() {
				u.seen[p.id][r.Index] = time.Now()
			}
			u.mu.Unlock()
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			u.w.t.Errorf("batch %s: %v", p.tag, err)
			return
		}
		if b.Status.Terminal() {
			u.mu.Lock()
			u.open = slices.DeleteFunc(u.open, func(o *planned) bool { return o == p })
			u.mu.Unlock()
		}
	}
}

// stop returns when each action was first seen as unknown, by batch and index.
func (u *unknowns) stop() map[string]map[int]time.Time {
	for range 50 { // read a batch once more after its end
		u.mu.Lock()
		n := len(u.open)
		u.mu.Unlock()
		if n == 0 || u.w.t.Failed() {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	u.cancel()
	<-u.ended
	return u.seen
}
