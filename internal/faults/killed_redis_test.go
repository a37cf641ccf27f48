package faults

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/client"
)

// Redis is killed repeatedly while clients submit. Acknowledged batches still exist,
// final results stay the same, and every batch ends.
func TestAKilledRedisLosesNothingThatWasAcknowledged(t *testing.T) {
	scenario(t)
	kills, every := scale(3, 20), 2*time.Second
	w := newWorld(t)
	w.target.delay = 5 * time.Millisecond
	w.startAPI()
	w.startWorker("w0")
	w.startWorker("w1")
	load := w.startLoad(3, 20)
	look := w.startReader(load)
	for range kills {
		time.Sleep(every)
		w.redis.Kill()
		time.Sleep(500 * time.Millisecond)
		w.redis.Restart()
	}
	back := time.Now()
	eventually(t, 30*time.Second, func() bool { return load.ackedAfter(back) }, "nothing is accepted after Redis is back")
	accepted := time.Since(back)
	time.Sleep(every)
	batches := load.stop()
	if long {
		w.settle(150*time.Second, batches...)
	} else {
		// Actions whose tasks Redis lost start a minute or two later. The short form
		// does not wait for them, but all batches must exist.
		open := w.open(15*time.Second, batches...)
		require.Less(t, len(open), len(batches)/4)
		batches = slices.DeleteFunc(batches, func(p *planned) bool { return slices.Contains(open, p) })
	}
	ended := time.Since(back)
	reads := look.stop()
	sum := w.verifyAll(batches)
	figure(t, "killed Redis: kills=%d batches=%d outcomes=%v reads_compared=%d", kills, len(batches), sum, reads)
	figure(t, "killed Redis: first acknowledgement %.1fs after the last restart, last batch ended after %.1fs", accepted.Seconds(), ended.Seconds())
	require.Equal(t, len(batches)*20, sum[client.Succeeded]+sum[client.Unknown], "%v", sum)
}

// load is a set of clients that submit one batch after another.
type load struct {
	w      *world
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu    sync.Mutex
	acked []*planned
	at    []time.Time
}

// startLoad starts clients that submit batches of that size. Each submits its next
// batch when the last has ended, so that the queue does not grow on a slow machine, but
// after a second at the latest, so that the load outlives a fault.
func (w *world) startLoad(clients, size int) *load {
	ctx, cancel := context.WithCancel(w.t.Context())
	l := &load{w: w, cancel: cancel}
	for c := range clients {
		l.wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				p := plan(fmt.Sprintf("c%d.%d", c, n), size, http.MethodPost, http.MethodGet)
				// The call is repeated with one idempotency key until it is
				// acknowledged. The test waits for its end, so that every batch is
				// known.
				b, err := w.client.Submit(context.WithoutCancel(ctx), p.actions, client.Options{WebhookURL: w.hookURL})
				if err != nil {
					w.t.Errorf("submit %s: %v", p.tag, err)
					return
				}
				p.id = b.ID
				l.mu.Lock()
				l.acked, l.at = append(l.acked, p), append(l.at, time.Now())
				l.mu.Unlock()
				next := time.After(100 * time.Millisecond)
				patience, cancel := context.WithTimeout(ctx, time.Second)
				_, _ = w.client.Wait(patience, p.id) // a later check looks at whether it ended
				cancel()
				select {
				case <-ctx.Done():
				case <-next:
				}
			}
		})
	}
	w.t.Cleanup(func() { l.stop() })
	return l
}

func (l *load) batches() []*planned {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.acked)
}

func (l *load) ackedAfter(at time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.at) > 0 && l.at[len(l.at)-1].After(at)
}

// stop ends the load and returns every batch that was acknowledged.
func (l *load) stop() []*planned {
	l.cancel()
	l.wg.Wait()
	return l.batches()
}

// reader reads the results of acknowledged batches repeatedly, and compares results
// that were final in an earlier read.
type reader struct {
	cancel context.CancelFunc
	ended  chan struct{}
	reads  int
}

func (w *world) startReader(l *load) *reader {
	ctx, cancel := context.WithCancel(w.t.Context())
	r := &reader{cancel: cancel, ended: make(chan struct{})}
	w.t.Cleanup(func() { r.stop() })
	go func() {
		defer close(r.ended)
		final := map[string]client.Outcome{}
		whole := map[string]int{} // how often a batch was read after its end
		for ctx.Err() == nil {
			for _, p := range l.batches() {
				if whole[p.id] >= 3 || ctx.Err() != nil {
					continue
				}
				pending := 0
				for got, err := range w.client.Results(ctx, p.id, client.Filter{}) {
					if err != nil {
						pending++ // Redis became unavailable in the middle of the answer
						if _, passes := client.Transient(err); !passes && ctx.Err() == nil {
							w.t.Logf("read %s: %v", p.tag, err)
						}
						break
					}
					before, known := final[got.ID]
					switch {
					case known && before != got.Outcome:
						w.t.Errorf("%s was %s and is %s", got.ID, before, got.Outcome)
					case got.Outcome == client.Pending:
						pending++
					default:
						final[got.ID] = got.Outcome
					}
					if known {
						r.reads++
					}
				}
				if pending == 0 {
					whole[p.id]++
				}
				b, err := w.client.Get(ctx, p.id, 0)
				if ctx.Err() != nil {
					return
				}
				if err == nil {
					err = p.consistent(b)
				}
				if err != nil {
					w.t.Errorf("batch %s: %v", p.tag, err)
				}
			}
			time.Sleep(50 * time.Millisecond)
		}
	}()
	return r
}

// stop returns how many final results were read again and compared.
func (r *reader) stop() int {
	r.cancel()
	<-r.ended
	return r.reads
}

// Redis dies at the moment when handlers finish, so the workers cannot record the
// results. The workers keep them until Redis is back.
func TestResultsOutlastARedisThatDiesAsTheyCome(t *testing.T) {
	scenario(t)
	rounds, away := scale(2, 50), scale(3*time.Second, 6*time.Second)
	w := newWorld(t)
	w.startAPI()
	w.startWorker("w0")
	w.startWorker("w1")
	var batches []*planned
	var recoveries []time.Duration
	for round := range rounds {
		p := plan(fmt.Sprintf("d%d", round), 2*concurrency, http.MethodPost)
		answer, answered := make(chan struct{}), make(chan struct{})
		var once sync.Once
		w.target.set(func(x *target) {
			x.gate = func(*visit) <-chan struct{} { return answer }
			x.after = func(*visit) { once.Do(func() { close(answered) }) }
		})
		w.submit(p, client.Options{})
		eventually(t, 130*time.Second, func() bool { return w.target.seen(p.tag) == len(p.actions) },
			"not all of %s is in flight", p.tag)
		close(answer)
		<-answered
		w.redis.Kill()
		time.Sleep(away)
		w.redis.Restart()
		back := time.Now()
		w.settle(150*time.Second, p)
		recoveries = append(recoveries, time.Since(back))
		batches = append(batches, p)
	}
	sum := w.verifyAll(batches)
	figure(t, "Redis gone as results come: rounds=%d away=%s outcomes=%v", rounds, away, sum)
	figure(t, "Redis gone as results come: from its return to the end of the batch: %s", quantiles(recoveries))
	require.Equal(t, tally{client.Succeeded: rounds * 2 * concurrency}, sum)
}
