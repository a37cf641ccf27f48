package queue

import (
	"bytes"
	"context"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/rdb"
)

// exchanges notes how many bytes the pipelines bring along, and how many
// arguments their longest step has. It makes the first ones fail.
type exchanges struct {
	mu          sync.Mutex
	fail        int
	bytes, args int // the most
}

func (e *exchanges) DialHook(next redis.DialHook) redis.DialHook { return next }

func (e *exchanges) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (e *exchanges) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		e.mu.Lock()
		failing := e.fail > 0
		size := 0
		for _, cmd := range cmds {
			for _, arg := range cmd.Args() {
				if sealed, ok := arg.([]byte); ok {
					size += len(sealed)
				}
			}
			if !failing {
				e.args = max(e.args, len(cmd.Args()))
			}
		}
		e.bytes = max(e.bytes, size)
		e.fail--
		e.mu.Unlock()
		if !failing {
			return next(ctx, cmds)
		}
		for _, cmd := range cmds {
			cmd.SetErr(context.DeadlineExceeded)
		}
		return context.DeadlineExceeded
	}
}

// together runs n steps that all wait for the same exchange.
func (b *bundle) together(n int, step func(i int) error) {
	b.t.Helper()
	b.combine.close()
	b.combine = newCombiner(b.db, b.doubtIf)
	b.combine.fliers = flights // which are on their way
	errs := make(chan error, n)
	for i := range n {
		go func() { errs <- step(i) }()
	}
	b.eventually("all of them", func() bool {
		b.combine.mu.Lock()
		defer b.combine.mu.Unlock()
		return len(b.combine.waiting) == n
	})
	for range flights {
		b.combine.wg.Go(b.combine.fly)
	}
	for range n {
		require.NoError(b.t, <-errs)
	}
}

func TestLargeResultsDoNotShareAnExchange(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		const n, size = 10, 512 << 10 // more than share one
		id := b.submit(n, spec()).ID
		tokens := make([]batch.Token, n)
		for i := range n {
			tokens[i] = b.begin(id, i).Token
		}
		seen := &exchanges{}
		b.db.Client.AddHook(seen)
		b.together(n, func(i int) error {
			r := result(i, batch.Succeeded)
			r.Body = bytes.Repeat([]byte("a"), size)
			return b.Finish(b.ctx, id, i, tokens[i], r)
		})
		require.Equal(t, n, b.get(id).Counts.Succeeded)
		require.LessOrEqual(t, seen.bytes, flightBytes)
	})
}

func TestWhatFailedTogetherIsRepeatedAlone(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		const n = 20
		id := b.submit(n, spec()).ID
		b.begin(b.submit(1, spec()).ID, 0) // the script is loaded
		seen := &exchanges{fail: 1}
		b.db.Client.AddHook(seen)
		b.together(n, func(i int) error {
			begun, err := b.Begin(b.ctx, id, i, "w1")
			if err == nil && (begun.Verdict != batch.Run || begun.Attempt != 1) {
				t.Errorf("action %d: %d, attempt %d", i, begun.Verdict, begun.Attempt)
			}
			return err
		})
		require.Equal(t, 15, seen.args, "of one action")
	})
}

func TestStepsAfterTheEndAreAnswered(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.submit(2, spec()).ID
		token := b.begin(id, 0).Token
		b.combine.close()
		require.ErrorIs(t, b.Finish(b.ctx, id, 0, token, result(0, batch.Succeeded)), redis.ErrClosed)
	})
}

// waiting returns how many steps wait for an exchange.
func (b *bundle) waiting() int {
	b.combine.mu.Lock()
	defer b.combine.mu.Unlock()
	return len(b.combine.waiting)
}

// finishing begins n actions of a batch and has them finished while others are at
// their targets. It returns once n results wait for somebody to share an exchange.
func (b *bundle) finishing(n int) (id string, ended chan error) {
	b.t.Helper()
	id = b.submit(2*gatherMost, spec()).ID
	tokens := make([]batch.Token, n)
	for i := range n {
		tokens[i] = b.begin(id, i).Token
	}
	b.combine.gather = time.Hour
	b.running.Store(1)
	ended = make(chan error, n)
	for i := range n {
		go func() { ended <- b.Finish(b.ctx, id, i, tokens[i], result(i, batch.Succeeded)) }()
	}
	b.eventually("all of them", func() bool { return b.waiting() == n%gatherMost })
	return id, ended
}

func TestResultsWaitAMomentForOthers(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		none := func(*bundle, string) {}
		for what, row := range map[string]struct {
			n    int
			then func(b *bundle, id string)
		}{
			"which somebody ends who cannot wait": {5, func(b *bundle, id string) { b.begin(id, 5) }},
			"which ends with the last of them": {5, func(b *bundle, id string) {
				b.running.Store(0)
				require.ErrorIs(b.t, b.Finish(b.ctx, id, 6, "", result(6, batch.Succeeded)), batch.ErrStale)
			}},
			"which is over at some time": {5, func(b *bundle, _ string) { b.combine.over.Reset(0) }},
			"unless they are many":       {gatherMost, none},
			"and go at the end":          {5, func(b *bundle, _ string) { b.combine.close() }},
		} {
			seen := &sent{}
			id, ended := b.finishing(row.n)
			b.db.Client.AddHook(seen)
			row.then(b, id)
			for range row.n {
				require.NoError(t, <-ended, what)
			}
			require.Equal(t, row.n, b.get(id).Counts.Succeeded, what)
			if row.n < gatherMost {
				require.Len(t, seen.with(b.steps.finish.Hash()), 1, what)
			}
			b.combine.close()
			b.combine = newCombiner(b.db, b.doubtIf)
			b.running.Store(0)
		}
	})
}

func TestAResultAloneDoesNotWaitForLong(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.submit(1, spec()).ID
		b.running.Store(1)
		b.end(id, 0, batch.Succeeded)
		require.Equal(t, batch.StatusCompleted, b.get(id).Status)
	})
}

// far is a hook that makes Redis a trip away.
type far struct{ trip time.Duration }

func (f far) DialHook(next redis.DialHook) redis.DialHook { return next }

func (f far) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (f far) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		time.Sleep(f.trip)
		return next(ctx, cmds)
	}
}

// What comes while two exchanges are on their way would else wait for a whole trip.
func TestStepsDoNotWaitForExchangesWithADistantRedis(t *testing.T) {
	t.Parallel()
	b := open(t, rdb.Embedded)
	const n, trip = 12, 600 * time.Millisecond
	id := b.submit(n, spec()).ID
	b.db.Client.AddHook(far{trip})
	took := make(chan time.Duration, n)
	for i := range n {
		go func() {
			began := time.Now()
			begun, err := b.Begin(b.ctx, id, i, "w")
			if err != nil || begun.Verdict != batch.Run {
				t.Errorf("action %d: %+v %v", i, begun, err)
			}
			took <- time.Since(began)
		}()
		time.Sleep(trip / n)
	}
	for range n {
		require.Less(t, <-took, trip+trip/2)
	}
}

// Steps that have exchanges of their own are answered when the combiner is closed, as all are.
func TestACombinerThatClosesAnswersEveryStep(t *testing.T) {
	t.Parallel()
	b := open(t, rdb.Embedded)
	const n, trip = 20, 400 * time.Millisecond
	id := b.submit(n, spec()).ID
	b.db.Client.AddHook(far{trip})
	var began sync.WaitGroup
	for i := range n {
		began.Go(func() {
			begun, err := b.Begin(b.ctx, id, i, "w")
			if err != nil {
				require.ErrorIs(t, err, redis.ErrClosed)
				return
			}
			require.Equal(t, batch.Run, begun.Verdict)
		})
		time.Sleep(trip / n)
	}
	b.eventually("exchanges beyond the usual ones", func() bool {
		b.combine.mu.Lock()
		defer b.combine.mu.Unlock()
		return b.combine.more > 0
	})
	b.combine.close()
	began.Wait()
	require.Zero(t, b.combine.more)
	require.Empty(t, b.combine.waiting)
}
