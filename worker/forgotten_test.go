package worker

import (
	"context"
	"net/http"
	"path"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/redistest"
	"github.com/batchd/batchd/queue"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/seal"
)

// forgotten is the longest time to an action's end after Redis has lost a part of its data.
const forgotten = 15 * time.Second

// amnesia is a Redis that loses writes: it sets keys back to earlier values.
type amnesia struct {
	*bundle
	server *redistest.Server
	rdb    *redis.Client
	others []*bundle // further workers, as if in processes of their own
}

// newAmnesia starts a Redis and a number of workers.
func newAmnesia(t *testing.T, workers int, do func(ctx context.Context, r *batch.Request, attempt int) *batch.Response) *amnesia {
	t.Helper()
	server := redistest.Start(t, "--appendonly", "no", "--dbfilename", "dump.rdb")
	seals := seal.Config{Keys: []seal.Key{seal.NewKey("test", make([]byte, 32))}}
	a := &amnesia{server: server, bundle: setupOn(t, queue.Config{Redis: rdb.Config{URL: rdb.URL(server.URL())}, Seal: seals}, do)}
	a.rdb = redis.NewClient(&redis.Options{Addr: server.Addr})
	t.Cleanup(func() { require.NoError(t, a.rdb.Close()) })
	for i := 1; i < workers; i++ {
		other := setupOn(t, queue.Config{Redis: rdb.Config{URL: rdb.URL(server.URL())}, Seal: seals}, a.Do0)
		other.cfg.Name = "w" + string(rune('1'+i))
		a.others = append(a.others, other)
	}
	return a
}

// Do0 counts the requests of the other workers here.
func (a *amnesia) Do0(ctx context.Context, r *batch.Request, _ int) *batch.Response {
	return a.Do(ctx, r)
}

// start runs all workers.
func (a *amnesia) start() {
	a.run()
	for _, other := range a.others {
		other.run()
	}
}

// kept has the earlier values of some keys.
type kept map[string]struct {
	value string
	ttl   time.Duration
}

// keep reads the keys that match any of the patterns.
func (a *amnesia) keep(patterns ...string) kept {
	a.t.Helper()
	ctx := context.Background()
	keys, err := a.rdb.Keys(ctx, "*").Result()
	require.NoError(a.t, err)
	found := kept{}
	for _, key := range keys {
		if !matches(key, patterns) {
			continue
		}
		value, err := a.rdb.Dump(ctx, key).Result()
		if err == redis.Nil { //nolint:errorlint // it is never wrapped
			continue
		}
		require.NoError(a.t, err)
		ttl, err := a.rdb.PTTL(ctx, key).Result()
		require.NoError(a.t, err)
		v := found[key]
		v.value, v.ttl = value, max(ttl, 0)
		found[key] = v
	}
	return found
}

// forget sets the keys that match any of the patterns back to their earlier values, in
// one step.
func (a *amnesia) forget(was kept, patterns ...string) {
	a.t.Helper()
	ctx := context.Background()
	keys, err := a.rdb.Keys(ctx, "*").Result()
	require.NoError(a.t, err)
	_, err = a.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, key := range keys {
			if matches(key, patterns) {
				p.Del(ctx, key)
			}
		}
		for key, v := range was {
			if matches(key, patterns) {
				p.RestoreReplace(ctx, key, v.ttl, v.value)
			}
		}
		return nil
	})
	require.NoError(a.t, err)
}

func matches(key string, patterns []string) bool {
	for _, p := range patterns {
		if ok, _ := path.Match(strings.NewReplacer("{", "_", "}", "_").Replace(p), strings.NewReplacer("{", "_", "}", "_").Replace(key)); ok {
			return true
		}
	}
	return false
}

// The keys that Redis loses.
var (
	allKeys   = []string{"*"}
	theBatch  = []string{"batchd:{*}:?", "batchd:open"}
	theQueues = []string{"asynq:*"}
)

// endsSoon waits a short time for the end of a batch, and returns its results.
func (a *amnesia) endsSoon(id string) []batch.Result {
	a.t.Helper()
	began := time.Now()
	_, results := a.wait(id)
	a.t.Logf("ended %.1fs after it was forgotten", time.Since(began).Seconds())
	require.Less(a.t, time.Since(began), forgotten)
	return results
}

// Redis loses the end of an action that was not safe to repeat, or also its begin. The
// worker that ran the action is alive, and still knows its result.
func TestWhatRedisForgotIsRepeatedByTheWorkerThatKnows(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		workers          int
		before, inFlight []string // keys set back to the time before the action began, and to the time when it was in flight
	}{
		"its end":                                 {workers: 2, inFlight: allKeys},
		"its end, and not its task's":             {workers: 2, inFlight: theBatch},
		"its end, and its task's":                 {workers: 2, inFlight: append(theQueues, theBatch...)},
		"its end, with one worker":                {workers: 1, inFlight: append(theQueues, theBatch...)},
		"its begin":                               {workers: 1, before: allKeys},
		"its begin, and not its task's":           {workers: 1, before: theBatch},
		"its begin, while its task counts as run": {workers: 1, before: theBatch, inFlight: theQueues},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sent, answered := make(chan struct{}, 10), make(chan struct{})
			a := newAmnesia(t, c.workers, func(context.Context, *batch.Request, int) *batch.Response {
				sent <- struct{}{}
				<-answered
				return answer(http.StatusCreated)
			})
			id := a.submit(1, http.MethodPost, nil)
			before := a.keep(allKeys...)
			a.start()
			<-sent
			inFlight := a.keep(allKeys...)
			close(answered)
			a.wait(id)
			if len(c.before) > 0 {
				a.forget(before, c.before...)
			}
			if len(c.inFlight) > 0 {
				a.forget(inFlight, c.inFlight...)
			}
			results := a.endsSoon(id)
			require.Equal(t, batch.Succeeded, results[0].Outcome, "%v", results[0].Error)
			require.Equal(t, 1, a.attempts(id, 0))
		})
	}
}

// If neither Redis nor the worker knows the result any more, the request may have been
// sent.
func TestWhatTheWorkerHasForgottenTooIsSentAgainIfThatIsSafe(t *testing.T) {
	t.Parallel()
	for _, method := range []string{http.MethodPost, http.MethodGet} {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			sent, answered := make(chan struct{}, 10), make(chan struct{})
			a := newAmnesia(t, 2, func(context.Context, *batch.Request, int) *batch.Response {
				sent <- struct{}{}
				<-answered
				return answer(http.StatusOK)
			})
			id := a.submit(1, method, nil)
			a.start()
			<-sent
			inFlight := a.keep(allKeys...)
			close(answered)
			a.wait(id)
			a.forget(inFlight, append(theQueues, theBatch...)...)
			// Simulate a later attempt that is so old that its worker has forgotten it.
			ledger := "batchd:{" + id + "}:l"
			entry, err := a.rdb.HGet(t.Context(), ledger, "0").Result()
			require.NoError(t, err)
			require.NoError(t, a.rdb.HSet(t.Context(), ledger, "0", "another"+strings.Replace(entry, "|1|", "|2|", 1)).Err())
			results := a.endsSoon(id)
			if method == http.MethodPost {
				require.Equal(t, batch.Unknown, results[0].Outcome)
				require.Equal(t, 1, a.attempts(id, 0))
				return
			}
			require.Equal(t, batch.Succeeded, results[0].Outcome)
			require.Equal(t, 2, a.attempts(id, 0))
		})
	}
}

// Redis loses the begin of an action while the target has the request.
func TestAnActionWhoseBeginWasForgottenIsRecordedAllTheSame(t *testing.T) {
	t.Parallel()
	sent, answered := make(chan struct{}, 10), make(chan struct{})
	a := newAmnesia(t, 2, func(context.Context, *batch.Request, int) *batch.Response {
		sent <- struct{}{}
		<-answered
		return answer(http.StatusCreated)
	})
	id := a.submit(1, http.MethodPost, nil)
	before := a.keep(allKeys...)
	a.start()
	<-sent
	a.forget(before, theBatch...)
	close(answered)
	results := a.endsSoon(id)
	require.Equal(t, batch.Succeeded, results[0].Outcome)
	require.Equal(t, 1, a.attempts(id, 0))
}

// Redis loses the answer 503 of the target and the release of the action for its next
// attempt.
func TestAReleaseThatWasForgottenIsRepeated(t *testing.T) {
	t.Parallel()
	sent, answered := make(chan struct{}, 10), make(chan struct{})
	a := newAmnesia(t, 2, func(_ context.Context, _ *batch.Request, attempt int) *batch.Response {
		if attempt > 1 {
			return answer(http.StatusCreated)
		}
		sent <- struct{}{}
		<-answered
		resp := answer(http.StatusServiceUnavailable)
		resp.Repeat = true
		return resp
	})
	for _, b := range append(a.others, a.bundle) {
		b.cfg.Targets[0].Retry.Base, b.cfg.Targets[0].Retry.Max = time.Hour, time.Hour
		b.cfg.Targets[0].Retry.Budget = 5 * time.Hour
	}
	id := a.submit(1, http.MethodPost, nil)
	a.start()
	<-sent
	inFlight := a.keep(allKeys...)
	close(answered)
	require.Eventually(t, func() bool {
		return a.rdb.ZCard(t.Context(), "asynq:{crm.interactive}:retry").Val() == 1
	}, 20*time.Second, 5*time.Millisecond)
	a.forget(inFlight, append(theQueues, theBatch...)...)
	results := a.endsSoon(id)
	require.Equal(t, batch.Succeeded, results[0].Outcome, "%v", results[0].Error)
	require.Equal(t, 2, results[0].Attempts)
	require.Equal(t, 2, a.attempts(id, 0))
}

// A server is restored from a snapshot from before the action began, or from when it was
// in flight.
func TestAServerThatComesBackWithAnOlderSnapshot(t *testing.T) {
	t.Parallel()
	for name, begun := range map[string]bool{"of before it began": false, "of while it was in flight": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const actions = 20
			var all sync.WaitGroup
			all.Add(actions)
			answered := make(chan struct{})
			a := newAmnesia(t, 2, func(_ context.Context, _ *batch.Request, attempt int) *batch.Response {
				if attempt == 1 {
					all.Done()
				}
				<-answered
				return answer(http.StatusCreated)
			})
			for _, b := range append(a.others, a.bundle) {
				b.cfg.Targets[0].Concurrency = actions
			}
			id := a.submit(actions, http.MethodPost, nil)
			save := func() {
				_, err := a.server.Command("SAVE")
				require.NoError(t, err)
			}
			if !begun {
				save()
			}
			a.start()
			all.Wait()
			if begun {
				save()
			}
			close(answered)
			a.wait(id)
			a.server.Kill()
			a.server.Restart()
			for _, r := range a.endsSoon(id) {
				require.Equal(t, batch.Succeeded, r.Outcome, "%v", r.Error)
				require.Equal(t, 1, a.attempts(id, r.Index))
			}
		})
	}
}

// The same holds for a group that Redis lost: it does not run again.
func TestAGroupWhoseEndWasForgottenIsNotRunAgain(t *testing.T) {
	t.Parallel()
	for name, begun := range map[string]bool{"with its begin": false, "its end alone": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sent, answered := make(chan struct{}, 10), make(chan struct{})
			a := newAmnesia(t, 1, func(context.Context, *batch.Request, int) *batch.Response {
				sent <- struct{}{}
				<-answered
				return answer(http.StatusCreated)
			})
			u, err := a.store.Open(t.Context(), "me", "")
			require.NoError(t, err)
			for range 3 {
				require.NoError(t, u.Add(t.Context(), &batch.Action{Method: http.MethodPost, Path: "/", Group: "g", Undo: &batch.Action{Method: http.MethodDelete, Path: "/x"}}))
			}
			got, _, err := u.Commit(t.Context(), &batch.Spec{Target: "crm", ExpiresIn: time.Hour, Retention: time.Hour})
			require.NoError(t, err)
			was := a.keep(allKeys...)
			a.start()
			<-sent
			if begun {
				was = a.keep(allKeys...)
			}
			close(answered)
			a.wait(got.ID)
			a.forget(was, theBatch...)
			for _, r := range a.endsSoon(got.ID) {
				require.Equal(t, batch.Succeeded, r.Outcome, "%v", r.Error)
				require.Equal(t, 1, a.attempts(got.ID, r.Index))
			}
		})
	}
}

// A retry is another round: a result recorded in the round before is not its result.
func TestARetryIsNotTakenForSomethingThatWasForgotten(t *testing.T) {
	t.Parallel()
	a := newAmnesia(t, 1, func(_ context.Context, _ *batch.Request, attempt int) *batch.Response {
		if attempt == 1 {
			return answer(http.StatusBadRequest)
		}
		return answer(http.StatusOK)
	})
	a.start()
	id := a.submit(1, http.MethodPost, nil)
	_, results := a.wait(id)
	require.Equal(t, batch.Failed, results[0].Outcome)
	_, _, err := a.store.Retry(t.Context(), "me", id, &batch.RetrySpec{Outcomes: []batch.Outcome{batch.Failed}})
	require.NoError(t, err)
	_, results = a.wait(id)
	require.Equal(t, batch.Succeeded, results[0].Outcome)
	require.Equal(t, 2, a.attempts(id, 0))
}
