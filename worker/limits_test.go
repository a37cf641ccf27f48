package worker

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/redistest"
	"github.com/batchd/batchd/queue"
	"github.com/batchd/batchd/queue/consumer"
	"github.com/batchd/batchd/queue/rdb"
)

// Two processes hand out the actions of one owner, who also retries and submits what is not
// throttled: at no moment more of them are at the target than the owner may have in flight.
func TestNoMoreIsInFlightThanAnOwnersLimitAllows(t *testing.T) {
	t.Parallel()
	const most, batches, actions = 5, 12, 10
	var flying, peak, sent atomic.Int64
	b := setup(t, func(_ context.Context, r *batch.Request, attempt int) *batch.Response {
		now := flying.Add(1)
		defer flying.Add(-1)
		sent.Add(1)
		for seen := peak.Load(); now > seen && !peak.CompareAndSwap(seen, now); seen = peak.Load() {
		}
		time.Sleep(time.Duration(1+r.Index%3) * time.Millisecond) // a target takes its time
		if attempt == 1 && r.Index%2 == 1 {
			return answer(400)
		}
		return answer(200)
	})
	url := redistest.Start(t).URL()
	open := func() *queue.Store {
		s, err := queue.Open(queue.Config{Redis: rdb.Config{URL: rdb.URL(url)}, Timeout: 30 * time.Second})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, s.Close()) })
		return s
	}
	processes := []*queue.Store{open(), open()}
	s := processes[0]
	b.store = s
	b.cfg.Ledger, b.cfg.Sweeper, b.cfg.Registry, b.cfg.Gate, b.cfg.NewServer = s.Ledger, s.Sweeper, s.Sweeper.Recovery, s.Gate, consumer.New(s).NewServer
	b.cfg.Targets[0].Concurrency = 4 * most
	b.run()

	limit := &batch.Limit{Concurrent: most}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ended := make(chan struct{})
	var feeders, owners sync.WaitGroup
	for _, s := range processes {
		feeders.Go(func() {
			for {
				select {
				case <-ended:
					return
				default:
					_, _ = s.Fanout.ReleaseThrottled(ctx)
				}
			}
		})
	}
	await := func(s *queue.Store, id string) {
		for ctx.Err() == nil {
			if got, err := s.Get(ctx, "me", id, 0); err == nil && got.Status.Terminal() {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	for i := range batches {
		owners.Go(func() {
			s := processes[i%2]
			u, err := s.Open(ctx, "me", "")
			if err != nil {
				return
			}
			for range actions {
				_ = u.Add(ctx, &batch.Action{Method: "GET", Path: "/"})
			}
			got, _, err := u.Commit(ctx, &batch.Spec{Target: "crm", ExpiresIn: time.Hour, Retention: time.Hour, Throttle: limit})
			if err != nil {
				return
			}
			await(s, got.ID)
			spec := &batch.RetrySpec{Outcomes: []batch.Outcome{batch.Failed}, Throttle: limit}
			if i%3 == 0 {
				spec.Limit, spec.Throttle = limit, nil
			}
			for ctx.Err() == nil {
				if _, _, err := s.Retry(ctx, "me", got.ID, spec); err == nil {
					break
				}
				time.Sleep(5 * time.Millisecond) // there is no room now
			}
			await(s, got.ID)
		})
	}
	owners.Wait()
	close(ended)
	feeders.Wait()
	require.NoError(t, ctx.Err(), "everything ends")
	require.EqualValues(t, batches*(actions+actions/2), sent.Load())
	require.LessOrEqual(t, peak.Load(), int64(most))
	require.Greater(t, peak.Load(), int64(1))
}
