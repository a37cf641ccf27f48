package batcher_test

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/redistest"
	"github.com/batchd/batchd/queue/batcher"
	"github.com/batchd/batchd/queue/ledger"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/rdb"
)

// bundle is what a test works with.
type bundle struct{ *queuetest.Bundle }

func onEveryStore(t *testing.T, test func(t *testing.T, b *bundle)) {
	t.Helper()
	queuetest.OnEveryStore(t, func(t *testing.T, b *queuetest.Bundle) { test(t, &bundle{b}) })
}

func open(t *testing.T, url string) *bundle {
	t.Helper()
	return &bundle{queuetest.Open(t, url)}
}

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
	b.T.Helper()
	b.Batcher.Close()
	b.Batcher.ReopenBusy()
	errs := make(chan error, n)
	for i := range n {
		go func() { errs <- step(i) }()
	}
	b.Eventually("all of them", func() bool { return b.Batcher.Waiting() == n })
	b.Batcher.StartFlushers()
	for range n {
		require.NoError(b.T, <-errs)
	}
}

func TestLargeResultsDoNotShareAnExchange(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		const n, size = 10, 512 << 10 // more than share one
		id := b.Submit(n, queuetest.Spec()).ID
		tokens := make([]batch.Token, n)
		for i := range n {
			tokens[i] = b.Begin(id, i).Token
		}
		seen := &exchanges{}
		b.DB.Client.AddHook(seen)
		b.together(n, func(i int) error {
			r := queuetest.Result(i, batch.Succeeded)
			r.Body = bytes.Repeat([]byte("a"), size)
			return b.Ledger.Finish(b.Ctx, id, i, tokens[i], r)
		})
		require.Equal(t, n, b.Read(id).Counts.Succeeded)
		require.LessOrEqual(t, seen.bytes, batcher.MaxBytes)
	})
}

// Results with different outcomes share one exchange, and each keeps its own.
func TestOutcomesThatShareAnExchangeStayApart(t *testing.T) {
	t.Parallel()
	b := open(t, redistest.Start(t).URL())
	outcomes := []batch.Outcome{batch.Succeeded, batch.Failed, batch.Errored, batch.Unknown, batch.Succeeded, batch.Failed, batch.Succeeded}
	id := b.Submit(len(outcomes)+2, queuetest.Spec()).ID // two go on
	begun := make([]*batch.Begun, len(outcomes))
	for i := range outcomes {
		begun[i] = b.Begin(id, i)
	}
	b.together(len(outcomes), func(i int) error {
		return b.Ledger.Finish(b.Ctx, id, i, begun[i].Token, queuetest.Result(i, outcomes[i]))
	})
	got := b.Read(id)
	require.Equal(t, batch.Counts{Total: 9, Pending: 2, Succeeded: 3, Failed: 2, Errored: 1, Unknown: 1}, got.Counts)
	require.Equal(t, batch.StatusRunning, got.Status)
	for i, r := range b.AllResults(id, 100) {
		want := batch.Pending
		if i < len(outcomes) {
			want = outcomes[i]
		}
		require.Equal(t, want, r.Outcome, "action %d", i)
		require.Equal(t, i, r.Index)
	}
	for i, o := range outcomes {
		found := b.AllResults(id, 100, o)
		require.True(t, slices.ContainsFunc(found, func(r batch.Result) bool { return r.Index == i }), "the filter by outcome %s", o)
	}
}

func TestWhatFailedTogetherIsRepeatedAlone(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		const n = 20
		id := b.Submit(n, queuetest.Spec()).ID
		b.Begin(b.Submit(1, queuetest.Spec()).ID, 0) // the script is loaded
		seen := &exchanges{fail: 1}
		b.DB.Client.AddHook(seen)
		b.together(n, func(i int) error {
			begun, err := b.Ledger.Begin(b.Ctx, id, i, "w1")
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
		id := b.Submit(2, queuetest.Spec()).ID
		token := b.Begin(id, 0).Token
		b.Batcher.Close()
		require.ErrorIs(t, b.Ledger.Finish(b.Ctx, id, 0, token, queuetest.Result(0, batch.Succeeded)), redis.ErrClosed)
	})
}

// finishing begins n actions of a batch and has them finished while others are at
// their targets. It returns once n results wait for somebody to share an exchange.
func (b *bundle) finishing(n int) (id string, ended chan error) {
	b.T.Helper()
	id = b.Submit(2*batcher.GatherMost, queuetest.Spec()).ID
	tokens := make([]batch.Token, n)
	for i := range n {
		tokens[i] = b.Begin(id, i).Token
	}
	b.Batcher.GatherFor(time.Hour)
	b.Ledger.AddRunning(1)
	ended = make(chan error, n)
	for i := range n {
		go func() { ended <- b.Ledger.Finish(b.Ctx, id, i, tokens[i], queuetest.Result(i, batch.Succeeded)) }()
	}
	b.Eventually("all of them", func() bool { return b.Batcher.Waiting() == n%batcher.GatherMost })
	return id, ended
}

func TestResultsWaitAMomentForOthers(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		none := func(*bundle, string) {}
		for what, row := range map[string]struct {
			n    int
			then func(b *bundle, id string)
		}{
			"which somebody ends who cannot wait": {5, func(b *bundle, id string) { b.Begin(id, 5) }},
			"which ends with the last of them": {5, func(b *bundle, id string) {
				b.Ledger.AddRunning(-1)
				require.ErrorIs(b.T, b.Ledger.Finish(b.Ctx, id, 6, "", queuetest.Result(6, batch.Succeeded)), batch.ErrStale)
			}},
			"which is over at some time": {5, func(b *bundle, _ string) { b.Batcher.EndGathering() }},
			"unless they are many":       {batcher.GatherMost, none},
			"and go at the end":          {5, func(b *bundle, _ string) { b.Batcher.Close() }},
		} {
			seen := &queuetest.Exchanges{}
			id, ended := b.finishing(row.n)
			b.DB.Client.AddHook(seen)
			row.then(b, id)
			for range row.n {
				require.NoError(t, <-ended, what)
			}
			require.Equal(t, row.n, b.Read(id).Counts.Succeeded, what)
			if row.n < batcher.GatherMost {
				require.Len(t, seen.With(ledger.Steps.Finish.Hash()), 1, what)
			}
			b.Batcher.Close()
			b.Batcher.Reopen()
			b.Ledger.AddRunning(-b.Ledger.AddRunning(0))
		}
	})
}

func TestAResultAloneDoesNotWaitForLong(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.Submit(1, queuetest.Spec()).ID
		b.Ledger.AddRunning(1)
		b.End(id, 0, batch.Succeeded)
		require.Equal(t, batch.StatusCompleted, b.Read(id).Status)
	})
}

// distant is a hook that keeps every exchange on its way until it is told to go on.
type distant struct {
	sent chan struct{} // gets one value for each exchange
	goOn chan struct{} // closed: the exchanges reach Redis
}

func (d distant) DialHook(next redis.DialHook) redis.DialHook { return next }

func (d distant) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (d distant) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		d.sent <- struct{}{}
		<-d.goOn
		return next(ctx, cmds)
	}
}

// awaitSent returns once the exchange of a call is on its way.
func (d distant) awaitSent(t *testing.T, call int) {
	t.Helper()
	select {
	case <-d.sent:
	case <-time.After(5 * time.Second):
		t.Errorf("call %d waits for the answers to the calls before it", call)
	}
}

// Without additional exchanges, the third call would wait until one of the first two is answered.
func TestStepsDoNotWaitForExchangesWithADistantRedis(t *testing.T) {
	t.Parallel()
	b := open(t, rdb.Embedded)
	const n = 8
	id := b.Submit(n, queuetest.Spec()).ID
	d := distant{sent: make(chan struct{}, n), goOn: make(chan struct{})}
	b.DB.Client.AddHook(d)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			begun, err := b.Ledger.Begin(b.Ctx, id, i, "w")
			if err != nil || begun.Verdict != batch.Run {
				t.Errorf("action %d: %+v %v", i, begun, err)
			}
		})
		d.awaitSent(t, i)
	}
	close(d.goOn)
	all.Wait()
}

// Calls that have exchanges of their own are answered when the batcher is closed, as all are.
func TestABatcherThatClosesAnswersEveryCall(t *testing.T) {
	t.Parallel()
	b := open(t, rdb.Embedded)
	const n = 8
	id := b.Submit(n, queuetest.Spec()).ID
	d := distant{sent: make(chan struct{}, n), goOn: make(chan struct{})}
	b.DB.Client.AddHook(d)
	var began sync.WaitGroup
	for i := range n {
		began.Go(func() {
			begun, err := b.Ledger.Begin(b.Ctx, id, i, "w")
			if err != nil {
				t.Errorf("action %d: %v", i, err)
				return
			}
			require.Equal(t, batch.Run, begun.Verdict)
		})
		d.awaitSent(t, i)
	}
	require.Positive(t, b.Batcher.MoreFlushers())
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		b.Batcher.Close()
	}()
	b.Eventually("the close", b.Batcher.Closed)
	close(d.goOn)
	<-closed
	began.Wait()
	require.Zero(t, b.Batcher.MoreFlushers())
	require.Zero(t, b.Batcher.Waiting())
}
