package queuetest

import (
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/tasks"
)

// Spec returns a submission to the target "crm" with nothing special.
func Spec() *batch.Spec {
	return &batch.Spec{Target: "crm", ExpiresIn: time.Hour, Retention: time.Hour}
}

// Action returns the action with index i of a submission.
func Action(i int) *batch.Action {
	return &batch.Action{
		ID: fmt.Sprintf("a-%d", i), Method: "POST", Path: fmt.Sprintf("/items/%d", i), Query: "x=1",
		Headers: []batch.Field{{Name: "content-type", Value: "text/plain"}}, Body: fmt.Appendf(nil, "body %d", i), Timeout: time.Second,
	}
}

// Result returns a result of the action with that index.
func Result(index int, o batch.Outcome) *batch.Result {
	r := &batch.Result{
		ID: fmt.Sprintf("a-%d", index), Index: index, Outcome: o, Attempts: 1, StartedAt: time.Now(), Duration: time.Millisecond,
	}
	if o == batch.Succeeded || o == batch.Failed {
		r.Status, r.Body = 200, fmt.Appendf(nil, "answer %d", index)
	} else {
		r.Error = &batch.Failure{Code: batch.CodeTimeout, Message: "no answer"}
	}
	return r
}

// Submit commits a batch of n actions for the owner "me".
func (b *Bundle) Submit(n int, s *batch.Spec) *batch.Batch {
	b.T.Helper()
	u, err := b.Open(b.Ctx, "me", "")
	require.NoError(b.T, err)
	for i := range n {
		require.NoError(b.T, u.Add(b.Ctx, Action(i)))
	}
	got, replayed, err := u.Commit(b.Ctx, s)
	require.NoError(b.T, err)
	require.False(b.T, replayed)
	if n <= tasks.FanOutChunk {
		b.Background.Wait() // until its fan-out is noted
	}
	return got
}

// Upload returns an upload with n actions, for the owner "me". The caller commits or drops it.
func (b *Bundle) Upload(n int) batch.Upload {
	b.T.Helper()
	u, err := b.Open(b.Ctx, "me", "")
	require.NoError(b.T, err)
	for i := range n {
		require.NoError(b.T, u.Add(b.Ctx, Action(i)))
	}
	return u
}

// Read reads a batch of the owner "me" without results.
func (b *Bundle) Read(id string) *batch.Batch {
	b.T.Helper()
	got, err := b.Get(b.Ctx, "me", id, 0)
	require.NoError(b.T, err)
	require.Equal(b.T, got.Counts.Total, got.Counts.Sum(), "the counts add up")
	return got
}

// Begin begins an action, which must be waiting, as the worker "w1".
func (b *Bundle) Begin(id string, index int) *batch.Begun {
	b.T.Helper()
	begun, err := b.Ledger.Begin(b.Ctx, id, index, "w1")
	require.NoError(b.T, err)
	require.Equal(b.T, batch.Run, begun.Verdict)
	return begun
}

// End begins and finishes an action.
func (b *Bundle) End(id string, index int, o batch.Outcome) {
	b.T.Helper()
	begun := b.Begin(id, index)
	require.NoError(b.T, b.Ledger.Finish(b.Ctx, id, index, begun.Token, Result(index, o)))
}

// EndAll begins the first n actions of a batch and finishes them as succeeded, many at a time.
func (b *Bundle) EndAll(id string, n int) {
	b.T.Helper()
	const atOnce = 64
	var all sync.WaitGroup
	var fault atomic.Pointer[error]
	for part := range atOnce {
		all.Go(func() {
			for i := part; i < n; i += atOnce {
				begun, err := b.Ledger.Begin(b.Ctx, id, i, "w1")
				if err == nil {
					err = b.Ledger.Finish(b.Ctx, id, i, begun.Token, Result(i, batch.Succeeded))
				}
				if err != nil {
					fault.Store(&err)
				}
			}
		})
	}
	all.Wait()
	if err := fault.Load(); err != nil {
		require.NoError(b.T, *err)
	}
}

// AllResults reads all results, in pages of the given size.
func (b *Bundle) AllResults(id string, limit int, outcomes ...batch.Outcome) []batch.Result {
	b.T.Helper()
	var all []batch.Result
	for from := 0; from >= 0; {
		page, err := b.Results(b.Ctx, "me", id, batch.ResultQuery{From: from, Limit: limit, Outcomes: outcomes})
		require.NoError(b.T, err)
		require.LessOrEqual(b.T, len(page.Results), limit)
		for _, encoded := range page.Results {
			var r batch.Result
			require.NoError(b.T, r.UnmarshalJSON(encoded))
			all = append(all, r)
		}
		require.NotEqual(b.T, from, page.Next, "a page makes progress")
		from = page.Next
	}
	return all
}

// LedgerEntry returns the ledger entry of an action as Redis has it.
func (b *Bundle) LedgerEntry(id string, index int) string {
	b.T.Helper()
	entry, err := b.DB.Client.HGet(b.Ctx, keys.KeysOf(id).Ledger, strconv.Itoa(index)).Result()
	require.NoError(b.T, err)
	return entry
}

// Rewind puts an action that has ended back in flight with a ledger entry, or, if the entry is empty,
// makes it wait, as if Redis had forgotten its end.
func (b *Bundle) Rewind(id string, index int, entry string) {
	b.T.Helper()
	k := keys.KeysOf(id)
	outcome := b.AllResults(id, 100)[index].Outcome
	_, err := b.DB.Client.Pipelined(b.Ctx, func(p redis.Pipeliner) error {
		if entry == "" {
			p.SetRange(b.Ctx, k.State, int64(index), "p")
			p.HDel(b.Ctx, k.Ledger, strconv.Itoa(index))
		} else {
			p.SetRange(b.Ctx, k.State, int64(index), "r")
			p.HSet(b.Ctx, k.Ledger, strconv.Itoa(index), entry)
		}
		p.HDel(b.Ctx, k.Results, strconv.Itoa(index))
		p.HSet(b.Ctx, k.Meta, "status", "running")
		p.HIncrBy(b.Ctx, k.Meta, "pending", 1)
		p.HIncrBy(b.Ctx, k.Meta, outcome.String(), -1)
		p.HDel(b.Ctx, k.Meta, "ended")
		return nil
	})
	require.NoError(b.T, err)
}

// Ask opens an upload for the owner and asks for n actions.
func (b *Bundle) Ask(owner string, n int, limit batch.Limit, partial bool) (batch.Upload, int, batch.LimitState, error) {
	b.T.Helper()
	u, err := b.Open(b.Ctx, owner, "")
	require.NoError(b.T, err)
	admitted, state, err := u.Admit(b.Ctx, n, limit, partial)
	return u, admitted, state, err
}
