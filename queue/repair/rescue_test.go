package repair_test

import (
	"strconv"
	"testing"

	"github.com/hibiken/asynq"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/redistest"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/repair"
	"github.com/batchd/batchd/queue/tasks"
)

func TestWhatADeadWorkerTookAndNeverBeganIsPutBack(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		b.SkipConfirmDelay()
		id := b.Submit(4, queuetest.Spec()).ID
		b.CreateTasks()
		queue := b.Tasks.QueueOf(queuetest.Crm(batch.Interactive), id, 0)
		// All four are taken, as a worker takes them. Two of them were begun by one that is alive.
		prefix := tasks.AsynqPrefix(queue)
		for i := range 4 {
			task, err := b.DB.Client.RPopLPush(b.Ctx, prefix+"pending", prefix+"active").Result()
			require.NoError(t, err)
			require.Equal(t, tasks.TaskID(id, i, ""), task)
			require.NoError(t, b.DB.Client.HSet(b.Ctx, prefix+"t:"+task, "state", "active").Err())
		}
		b.Begin(id, 0)
		b.Begin(id, 2)
		found, err := b.Sweeper.Recovery.Recover(b.Ctx, "w1", []string{"dead"})
		require.NoError(t, err)
		require.Equal(t, 2, found)
		found, err = b.Sweeper.Recovery.Recover(b.Ctx, "w1", []string{"dead"})
		require.NoError(t, err)
		require.Zero(t, found)
		for state, list := range map[string]func(string, ...asynq.ListOption) ([]*asynq.TaskInfo, error){
			"pending": b.Inspector().ListPendingTasks, "active": b.Inspector().ListActiveTasks,
		} {
			brought, err := list(queue)
			require.NoError(t, err)
			var got []int
			for _, task := range brought {
				_, index, err := tasks.DecodeTask(task.Payload)
				require.NoError(t, err)
				require.Equal(t, state, task.State.String())
				got = append(got, index)
			}
			require.ElementsMatch(t, map[string][]int{"pending": {1, 3}, "active": {0, 2}}[state], got, state)
		}
	})
}

// A worker dies, and so does the one that its action was brought to, before it
// decided about it.
func TestAnActionWhoseRescuerDiedIsBroughtToAnother(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		b.SkipConfirmDelay()
		id := b.Submit(1, queuetest.Spec()).ID
		b.CreateTasks()
		queue := b.Tasks.QueueOf(queuetest.Crm(batch.Interactive), id, 0)
		prefix := tasks.AsynqPrefix(queue)
		take := func() string {
			task, err := b.DB.Client.RPopLPush(b.Ctx, prefix+"pending", prefix+"active").Result()
			require.NoError(t, err)
			require.NoError(t, b.DB.Client.HSet(b.Ctx, prefix+"t:"+task, "state", "active").Err())
			return task
		}
		require.Equal(t, tasks.TaskID(id, 0, ""), take())
		begun, err := b.Ledger.Begin(b.Ctx, id, 0, "dead")
		require.NoError(t, err)
		found, err := b.Sweeper.Recovery.Recover(b.Ctx, "w1", []string{"dead"})
		require.NoError(t, err)
		require.Equal(t, 1, found)
		rescue := tasks.TaskID(id, 0, string(begun.Token))
		require.Equal(t, rescue, take())
		found, err = b.Sweeper.Recovery.Recover(b.Ctx, "w1", []string{"rescuer"})
		require.NoError(t, err)
		require.Equal(t, 1, found)
		require.Equal(t, rescue, take())
		// Once it is decided, a task that is still held brings nothing.
		_, err = b.Ledger.Release(b.Ctx, id, 0, begun.Token, new(batch.Result))
		require.NoError(t, err)
		again, err := b.Ledger.Begin(b.Ctx, id, 0, "third")
		require.NoError(t, err)
		require.Equal(t, batch.Run, again.Verdict)
		found, err = b.Sweeper.Recovery.Recover(b.Ctx, "w1", []string{"rescuer"})
		require.NoError(t, err)
		require.Zero(t, found)
	})
}

// A recovery task brings no attempt whose token only resembles its own.
func TestATaskWhoseTokenOnlyResemblesTheHoldersBringsNothing(t *testing.T) {
	t.Parallel()
	b := open(t, redistest.Start(t).URL())
	id := b.Submit(1, queuetest.Spec()).ID
	held := string(b.Begin(id, 0).Token)
	for _, token := range []string{"", held[:1], held[:len(held)-1], held + "1", held + "|1", held + "|", held[1:], "|" + held} {
		require.False(t, bringsTheAttempt(b, id, token), "token %q", token)
	}
	require.True(t, bringsTheAttempt(b, id, held))
}

// bringsTheAttempt reports whether a recovery task with that token brings the attempt at
// action 0 that the ledger holds.
func bringsTheAttempt(b *bundle, id, token string) bool {
	return repair.BringsInterrupted(tasks.TaskID(id, 0, token), b.DB.Client.HMGet(b.Ctx, keys.KeysOf(id).Ledger, strconv.Itoa(0)))
}
