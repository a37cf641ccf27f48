package queuetest

import (
	"strings"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/tasks"
)

// Grouped commits a batch of six actions. The actions 1, 3 and 4 are a group, and 5 is a group
// of its own.
func (b *Bundle) Grouped(s *batch.Spec) string {
	b.T.Helper()
	u, err := b.Open(b.Ctx, "me", "")
	require.NoError(b.T, err)
	for i := range 6 {
		a := Action(i)
		switch i {
		case 1, 3, 4:
			a.Group, a.Undo = "g", &batch.Action{Method: "DELETE", Path: "/x"}
		case 5:
			a.Group = "h"
		}
		require.NoError(b.T, u.Add(b.Ctx, a))
	}
	got, _, err := u.Commit(b.Ctx, s)
	require.NoError(b.T, err)
	return got.ID
}

// Attempted is the result of an attempt that another attempt follows.
func Attempted(begun *batch.Begun, status int, failure *batch.Failure) *batch.Result {
	r := &batch.Result{Status: status, Error: failure, Attempts: begun.Attempt, StartedAt: begun.StartedAt, Duration: time.Second}
	if begun.Previous != nil {
		r.History = begun.Previous.Past()
	}
	return r
}

// PutBack begins an action, and releases it after an attempt with a status.
func (b *Bundle) PutBack(id string, index, status int) {
	b.T.Helper()
	begun := b.Begin(id, index)
	_, err := b.Ledger.Release(b.Ctx, id, index, begun.Token, Attempted(begun, status, nil))
	require.NoError(b.T, err)
}

// Silence sets the age of a worker's last beat.
func (b *Bundle) Silence(worker string, d time.Duration) {
	b.T.Helper()
	now, err := b.DB.Now(b.Ctx)
	require.NoError(b.T, err)
	require.NoError(b.T, b.DB.Client.ZAdd(b.Ctx, keys.WorkersKey, redis.Z{Score: float64(now.Add(-d).UnixMilli()), Member: worker}).Err())
}

// RequireTTLs checks that a batch has a number of keys, and that each expires after about that time.
func (b *Bundle) RequireTTLs(id string, want int, most time.Duration) {
	b.T.Helper()
	count := 0
	for key, ttl := range b.AllKeys() {
		if strings.HasPrefix(key, "batchd:{"+id) {
			count++
			require.Positive(b.T, ttl, key)
			require.LessOrEqual(b.T, ttl, most, key)
			require.Greater(b.T, ttl, most-5*time.Minute, key)
		}
	}
	require.Equal(b.T, want, count)
}

// Webhooks returns the ids of the tasks that wait to deliver webhooks.
func (b *Bundle) Webhooks() (ids []string) {
	b.T.Helper()
	tasks, err := b.Inspector().ListPendingTasks(tasks.WebhookQueue)
	if err != nil {
		require.ErrorIs(b.T, err, asynq.ErrQueueNotFound)
	}
	for _, task := range tasks {
		ids = append(ids, task.ID)
	}
	return ids
}

// PassDeadline moves the creation and the deadline of a batch, an hour apart, so that the deadline has
// passed.
func (b *Bundle) PassDeadline(id string) {
	b.T.Helper()
	now, err := b.DB.Now(b.Ctx)
	require.NoError(b.T, err)
	require.NoError(b.T, b.DB.Client.HSet(b.Ctx, keys.KeysOf(id).Meta, "created", now.Add(-time.Hour).UnixMilli(), "expires", now.UnixMilli()-1).Err())
}
