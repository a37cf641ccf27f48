package worker

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/consumer"
)

func TestEveryActionRunsOnceAndResultsKeepTheirPlace(t *testing.T) {
	t.Parallel()
	b := setup(t, func(_ context.Context, r *batch.Request, _ int) *batch.Response {
		resp := answer(200)
		resp.Result.Body = []byte(r.Action.Path)
		if r.Owner != "me" {
			resp.Result.Outcome = batch.Failed
		}
		return resp
	})
	b.run()
	id := b.submit(300, "POST", nil)
	got, results := b.wait(id)
	require.Equal(t, batch.Counts{Total: 300, Succeeded: 300}, got.Counts)
	for i, r := range results {
		require.Equal(t, "/"+r.ID, string(r.Body))
		require.Equal(t, 1, b.attempts(id, i))
		require.Equal(t, 1, r.Attempts)
	}
}

func TestAttemptsAreRepeatedAsThePolicySays(t *testing.T) {
	t.Parallel()
	b := setup(t, func(_ context.Context, r *batch.Request, attempt int) *batch.Response {
		switch {
		case r.Index == 0 && attempt < 3:
			resp := answer(503)
			resp.Repeat = true
			return resp
		case r.Index == 1:
			resp := answer(429)
			resp.Repeat = true
			return resp
		case r.Index == 2:
			return answer(500)
		}
		return answer(200)
	})
	w, err := New(b.cfg)
	require.NoError(t, err)
	defer w.hooks.close()
	id := b.submit(3, "POST", nil)
	for i := range 3 {
		for later := (*laterError)(nil); ; { // makes each attempt at once, without its delay
			if err = w.action(id, i, new(consumer.Slot)); !errors.As(err, &later) {
				break
			}
		}
		require.NoError(t, err)
	}
	got, results := b.wait(id)
	require.Equal(t, batch.Counts{Total: 3, Succeeded: 1, Failed: 2}, got.Counts)
	for i, want := range []struct{ status, attempts int }{{200, 3}, {429, 3}, {500, 1}} {
		require.Equal(t, want.status, results[i].Status)
		require.Equal(t, want.attempts, results[i].Attempts)
		require.Equal(t, want.attempts, b.attempts(id, i))
	}
}

func TestTheNextAttemptFollowsThePolicy(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	policy := &batch.Retry{Attempts: 5, Base: time.Second, Max: 20 * time.Second, Budget: time.Minute}
	for name, c := range map[string]struct {
		attempt  int
		noRepeat bool
		asked    time.Duration
		took     time.Duration
		elapsed  time.Duration // from the first attempt to this one
		expires  time.Duration // from the first attempt
		low, hi  time.Duration
		again    bool
	}{
		"the first delay is the base, half of it random": {attempt: 1, low: 500 * time.Millisecond, hi: time.Second, again: true},
		"it doubles":                               {attempt: 3, low: 2 * time.Second, hi: 4 * time.Second, again: true},
		"the attempts are counted":                 {attempt: 5},
		"policy may forbid it":                     {attempt: 1, noRepeat: true},
		"the target's wish is followed":            {attempt: 1, asked: 10 * time.Second, low: 10 * time.Second, hi: 11 * time.Second, again: true},
		"up to the cap":                            {attempt: 1, asked: time.Hour, low: 20 * time.Second, hi: 22 * time.Second, again: true},
		"a wish shorter than ours changes nothing": {attempt: 3, asked: time.Millisecond, low: 2 * time.Second, hi: 4 * time.Second, again: true},
		"the budget is over":                       {attempt: 2, elapsed: 59500 * time.Millisecond},
		"the attempt itself used it up":            {attempt: 2, took: time.Minute},
		"the batch expires first":                  {attempt: 1, expires: 400 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			begun := &batch.Begun{Attempt: c.attempt, FirstAt: start, StartedAt: start.Add(c.elapsed), ExpiresAt: start.Add(time.Hour)}
			if c.expires > 0 {
				begun.ExpiresAt = start.Add(c.expires)
			}
			resp := &batch.Response{Repeat: !c.noRepeat, After: c.asked, Result: batch.Result{Duration: c.took}}
			for range 100 {
				delay, again := nextAttempt(policy, begun, resp)
				require.Equal(t, c.again, again)
				require.GreaterOrEqual(t, delay, c.low)
				require.LessOrEqual(t, delay, c.hi)
			}
		})
	}
	require.LessOrEqual(t, backoff(policy, 1000), policy.Max, "no overflow")
}

func TestAnInterruptedActionIsNotSentAgainUnlessThatIsSafe(t *testing.T) {
	t.Parallel()
	b := setup(t, func(context.Context, *batch.Request, int) *batch.Response { return answer(200) })
	post, get := b.submit(1, "POST", nil), b.submit(1, "GET", nil)
	for _, id := range []string{post, get} { // a dead worker began both
		begun, err := b.store.Ledger.Begin(t.Context(), id, 0, "dead")
		require.NoError(t, err)
		require.Equal(t, batch.Run, begun.Verdict)
	}
	b.run()
	_, results := b.wait(post)
	require.Equal(t, batch.Unknown, results[0].Outcome)
	require.Equal(t, batch.CodeInterrupted, results[0].Error.Code)
	require.NotZero(t, results[0].StartedAt)
	require.Equal(t, 1, results[0].Attempts)
	require.Zero(t, b.attempts(post, 0))
	_, results = b.wait(get)
	require.Equal(t, batch.Succeeded, results[0].Outcome)
	require.Equal(t, 2, results[0].Attempts)
	require.Equal(t, 1, b.attempts(get, 0))
}

func TestAnActionThatIsInterruptedAgainAndAgainEnds(t *testing.T) {
	t.Parallel()
	b := setup(t, func(context.Context, *batch.Request, int) *batch.Response { return answer(200) })
	id := b.submit(1, "GET", nil)
	for range 3 {
		begun, err := b.store.Ledger.Begin(t.Context(), id, 0, "dead")
		require.NoError(t, err)
		if begun.Attempt < 3 {
			_, err = b.store.Ledger.Release(t.Context(), id, 0, begun.Token, new(batch.Result))
			require.NoError(t, err)
		}
	}
	b.run()
	_, results := b.wait(id)
	require.Equal(t, batch.Errored, results[0].Outcome)
	require.Equal(t, batch.CodeInterrupted, results[0].Error.Code)
	require.Zero(t, b.attempts(id, 0))
}

func TestWhatIsInFlightFinishesBeforeAWorkerEnds(t *testing.T) {
	t.Parallel()
	started := make(chan struct{}, 64)
	release := make(chan struct{})
	b := setup(t, func(context.Context, *batch.Request, int) *batch.Response {
		started <- struct{}{}
		<-release
		return answer(200)
	})
	stop := b.run()
	id := b.submit(20, "POST", nil)
	for range 8 {
		<-started
	}
	time.AfterFunc(100*time.Millisecond, func() { close(release) })
	stop()
	got, err := b.store.Get(t.Context(), "me", id, 0)
	require.NoError(t, err)
	require.GreaterOrEqual(t, got.Counts.Succeeded, 8)
	require.Equal(t, 20, got.Counts.Succeeded+got.Counts.Pending)
	b.cfg.Name = "w2"
	b.run()
	got, _ = b.wait(id)
	require.Equal(t, 20, got.Counts.Succeeded)
	for i := range 20 {
		require.Equal(t, 1, b.attempts(id, i))
	}
}

func TestWhatDoesNotFinishInTheDrainTimeIsGivenBackOrUnknown(t *testing.T) {
	t.Parallel()
	started := make(chan struct{}, 2)
	b := setup(t, func(ctx context.Context, r *batch.Request, attempt int) *batch.Response {
		if attempt > 1 {
			return answer(200)
		}
		started <- struct{}{}
		<-ctx.Done()
		resp := &batch.Response{Result: batch.Result{Outcome: batch.Unknown, StartedAt: time.Now(), Error: &batch.Failure{Code: batch.CodeInterrupted, Message: "x"}}}
		if r.Action.Method == http.MethodGet {
			resp.Repeat, resp.Result.Outcome = true, batch.Errored
		}
		return resp
	})
	b.cfg.Drain = 50 * time.Millisecond
	stop := b.run()
	post, get := b.submit(1, "POST", nil), b.submit(1, "GET", nil)
	<-started
	<-started
	stop()
	_, results := b.wait(post)
	require.Equal(t, batch.Unknown, results[0].Outcome)
	b.run()
	_, results = b.wait(get)
	require.Equal(t, batch.Succeeded, results[0].Outcome)
	require.Equal(t, 1, b.attempts(post, 0))
	require.Equal(t, 2, b.attempts(get, 0))
}

// awayLedger is a store that is unavailable for a number of calls just when results
// arrive.
type awayLedger struct {
	batch.Ledger
	calls atomic.Int32
}

func (l *awayLedger) Finish(ctx context.Context, id string, index int, token batch.Token, r *batch.Result) error {
	if l.calls.Add(-1) >= 0 {
		return &batch.UnavailableError{RetryAfter: time.Second, Err: errors.New("away")}
	}
	return l.Ledger.Finish(ctx, id, index, token, r)
}

func TestAResultIsKeptWhileTheStoreIsAway(t *testing.T) {
	t.Parallel()
	b := setup(t, func(context.Context, *batch.Request, int) *batch.Response { return answer(201) })
	ledger := &awayLedger{Ledger: b.store.Ledger}
	ledger.calls.Store(5)
	b.cfg.Ledger = ledger
	b.run()
	id := b.submit(2, "POST", nil)
	got, _ := b.wait(id)
	require.Equal(t, 2, got.Counts.Succeeded)
	require.Equal(t, 1, b.attempts(id, 0))
	require.Equal(t, 1, b.attempts(id, 1))
}

func TestASmallBatchDoesNotWaitBehindALargeOne(t *testing.T) {
	t.Parallel()
	const few = 10
	var large string
	var sent [2]int // of the small batch, and of the large one
	var before int  // actions of the large one that were sent
	var mu sync.Mutex
	b := setup(t, func(_ context.Context, r *batch.Request, _ int) *batch.Response {
		time.Sleep(2 * time.Millisecond)
		mu.Lock()
		defer mu.Unlock()
		if r.BatchID == large {
			sent[1]++
		} else if sent[0]++; sent[0] == few {
			before = sent[1]
		}
		return answer(200)
	})
	large = b.submit(900, "POST", nil)
	small := b.submit(few, "POST", nil)
	b.run()
	b.wait(small)
	require.Less(t, before, 300)
}

func TestTheDeadlineEndsABatchThatNobodyTouches(t *testing.T) {
	t.Parallel()
	b := setup(t, func(_ context.Context, _ *batch.Request, attempt int) *batch.Response {
		resp := answer(503)
		resp.Repeat, resp.After = true, 800*time.Millisecond
		return resp
	})
	b.cfg.Targets[0].Retry.Attempts = 100
	b.run()
	id := b.submit(1, "POST", func(s *batch.Spec) { s.ExpiresIn = 1500 * time.Millisecond })
	got, results := b.wait(id)
	// The action ends with its last answer, unless the deadline passes while it waits.
	require.Contains(t, []batch.Status{batch.StatusExpired, batch.StatusCompleted}, got.Status)
	require.Contains(t, []batch.Outcome{batch.Failed, batch.Expired}, results[0].Outcome)
}

func TestAnAttemptEndsSoonAfterTheDeadline(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		expiresIn       time.Duration
		timeout, sentBy time.Duration // the action's own timeout, and the timeout of the request; 0 is the target's
	}{
		"the deadline is far away":                  {expiresIn: time.Hour, timeout: 10 * time.Minute, sentBy: 10 * time.Minute},
		"the action's timeout goes beyond it":       {expiresIn: 5 * time.Second, timeout: 10 * time.Minute, sentBy: 35 * time.Second},
		"the target's timeout goes beyond it":       {expiresIn: 5 * time.Second, sentBy: 35 * time.Second},
		"the action's timeout is shorter":           {expiresIn: 5 * time.Second, timeout: 3 * time.Second, sentBy: 3 * time.Second},
		"the target's timeout is shorter":           {expiresIn: 90 * time.Second},
		"the action's timeout passes in the grace":  {expiresIn: 5 * time.Second, timeout: 35 * time.Second, sentBy: 35 * time.Second},
		"the action's timeout ends a little beyond": {expiresIn: 5 * time.Second, timeout: 36 * time.Second, sentBy: 35 * time.Second},
	} {
		var sent time.Duration
		b := setup(t, func(_ context.Context, r *batch.Request, _ int) *batch.Response {
			sent = r.Action.Timeout
			return &batch.Response{Result: batch.Result{Outcome: batch.Unknown, StartedAt: time.Now(), Error: &batch.Failure{Code: batch.CodeTimeout, Message: "no answer"}}}
		})
		b.cfg.Targets[0].Timeout = 2 * time.Minute
		w, err := New(b.cfg)
		require.NoError(t, err)
		id := b.submit(1, "POST", func(s *batch.Spec) { s.ExpiresIn = c.expiresIn })
		begun, err := b.store.Ledger.Begin(t.Context(), id, 0, "w1")
		require.NoError(t, err)
		begun.StartedAt = begun.ExpiresAt.Add(-c.expiresIn) // excludes the time that this test takes
		begun.Action.Timeout = c.timeout
		require.NoError(t, w.attempt(t.Context(), id, 0, begun, &consumer.Slot{}))
		require.Equal(t, c.sentBy, sent, name)
		require.Equal(t, c.timeout, begun.Action.Timeout, name)
		_, results := b.wait(id)
		require.Equal(t, batch.Unknown, results[0].Outcome)
		require.Equal(t, c.sentBy != c.timeout, strings.Contains(results[0].Error.Message, "deadline"), name)
	}
}

func TestARefusedActionIsNotSent(t *testing.T) {
	t.Parallel()
	b := setup(t, func(context.Context, *batch.Request, int) *batch.Response { return answer(200) })
	u, err := b.store.Open(t.Context(), "me", "")
	require.NoError(t, err)
	why := &batch.Failure{Code: batch.CodeLimited, Message: "no room"}
	require.NoError(t, u.Add(t.Context(), &batch.Action{Method: "POST", Path: "/", Refusal: why}))
	require.NoError(t, u.Add(t.Context(), &batch.Action{Method: "POST", Path: "/"}))
	got, _, err := u.Commit(t.Context(), &batch.Spec{Target: "crm", ExpiresIn: time.Hour, Retention: time.Hour})
	require.NoError(t, err)
	b.run()
	_, results := b.wait(got.ID)
	require.Equal(t, batch.Errored, results[0].Outcome)
	require.Equal(t, why, results[0].Error)
	require.Equal(t, batch.Succeeded, results[1].Outcome)
	require.Zero(t, b.attempts(got.ID, 0))
	require.Equal(t, 1, b.attempts(got.ID, 1))
}

func TestATargetThatIsNoLongerConfiguredEndsItsActions(t *testing.T) {
	t.Parallel()
	b := setup(t, func(context.Context, *batch.Request, int) *batch.Response { return answer(200) })
	begun := &batch.Begun{Target: "gone", Attempt: 1}
	id := b.submit(1, "GET", func(s *batch.Spec) { s.Target = "gone" })
	got, err := b.store.Ledger.Begin(t.Context(), id, 0, "w1")
	require.NoError(t, err)
	begun.Token, begun.Action = got.Token, got.Action
	w, err := New(b.cfg)
	require.NoError(t, err)
	require.NoError(t, w.attempt(t.Context(), id, 0, begun, &consumer.Slot{}))
	_, results := b.wait(id)
	require.Equal(t, batch.CodeInternal, results[0].Error.Code)
	require.Contains(t, results[0].Error.Message, `"gone"`)
}

func TestARetriedActionKeepsItsHistory(t *testing.T) {
	t.Parallel()
	b := setup(t, func(_ context.Context, r *batch.Request, attempt int) *batch.Response {
		if r.Index == 1 && attempt < 5 { // three attempts, then the first one of the retry
			resp := answer(503)
			resp.Repeat = true
			return resp
		}
		return answer(200)
	})
	b.run()
	id := b.submit(3, "POST", nil)
	got, _ := b.wait(id)
	require.Equal(t, batch.Counts{Total: 3, Succeeded: 2, Failed: 1}, got.Counts)
	_, _, err := b.store.Retry(t.Context(), "me", id, &batch.RetrySpec{Outcomes: []batch.Outcome{batch.Failed}})
	require.NoError(t, err)
	got, results := b.wait(id)
	require.Equal(t, batch.Counts{Total: 3, Succeeded: 3}, got.Counts)
	require.Equal(t, 5, results[1].Attempts)
	require.Len(t, results[1].History, 1)
	require.Equal(t, 503, results[1].History[0].Status)
	require.Equal(t, 3, results[1].History[0].Attempts)
	require.Equal(t, 1, b.attempts(id, 0), "what succeeded is left alone")
}

func TestWhoIsNextKnowsThatHeIsToWait(t *testing.T) {
	t.Parallel()
	const (
		most  = 2000
		going = 300 * time.Millisecond // after this time the worker prefetches tasks
	)
	var mu sync.Mutex
	var first, asked time.Time // when the first request came, and when the target asked to wait
	var waited time.Duration
	next := make(chan struct{})
	b := setup(t, func(context.Context, *batch.Request, int) *batch.Response {
		mu.Lock()
		defer mu.Unlock()
		resp, now := answer(http.StatusOK), time.Now()
		switch {
		case first.IsZero():
			first = now
		case asked.IsZero() && now.Sub(first) >= going:
			asked = now
			resp.After = time.Second // as for RateLimit with nothing remaining
		case !asked.IsZero() && waited == 0:
			waited = now.Sub(asked)
			close(next)
		}
		return resp
	})
	b.cfg.Targets[0].Concurrency = 1
	b.run()
	id := b.submit(most, http.MethodPost, nil)
	select {
	case <-next:
	case <-time.After(30 * time.Second):
		t.Fatal("nothing is sent after the wait")
	}
	require.GreaterOrEqual(t, waited, 900*time.Millisecond)
	_, err := b.store.Cancel(t.Context(), "me", id)
	require.NoError(t, err)
	b.wait(id)
}

func TestACancelledActionThatWasAnsweredKeepsItsStatus(t *testing.T) {
	t.Parallel()
	b := setup(t, func(context.Context, *batch.Request, int) *batch.Response {
		r := answer(429)
		r.Repeat = true
		return r
	})
	b.cfg.Targets[0].Retry = batch.Retry{Attempts: 3, Base: 10 * time.Minute, Max: 20 * time.Minute, Budget: time.Hour}
	id := b.submit(2, "POST", nil)
	b.run()
	require.Eventually(t, func() bool {
		page, err := b.store.Results(t.Context(), "me", id, batch.ResultQuery{Limit: 10})
		require.NoError(t, err)
		got, err := b.store.Get(t.Context(), "me", id, 0)
		require.NoError(t, err)
		sent := b.attempts(id, 0) + b.attempts(id, 1)
		return sent == 2 && got.Counts.Pending == 2 && len(page.Results) == 2
	}, 30*time.Second, 5*time.Millisecond)
	_, err := b.store.Cancel(t.Context(), "me", id)
	require.NoError(t, err)
	got, results := b.wait(id)
	require.Equal(t, batch.StatusCancelled, got.Status)
	for _, r := range results {
		require.Equal(t, batch.Cancelled, r.Outcome)
		require.Equal(t, 429, r.Status)
		require.Equal(t, 1, r.Attempts)
		require.NotZero(t, r.StartedAt)
		require.Contains(t, r.Error.Message, "status 429")
	}
}
