package queue

import (
	"testing"

	"github.com/hibiken/asynq"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

func TestWhatADeadWorkerTookAndNeverBeganIsPutBack(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.submit(4, spec()).ID
		queue := b.queueOf(crm(batch.Interactive), id, 0)
		// All four are taken, as a worker takes them. Two of them were begun by one that is alive.
		prefix := asynqPrefix(queue)
		for i := range 4 {
			task, err := b.rdb.RPopLPush(b.ctx, prefix+"pending", prefix+"active").Result()
			require.NoError(t, err)
			require.Equal(t, taskID(id, i, ""), task)
			require.NoError(t, b.rdb.HSet(b.ctx, prefix+"t:"+task, "state", "active").Err())
		}
		b.begin(id, 0)
		b.begin(id, 2)
		found, err := b.Recover(b.ctx, []string{"dead"})
		require.NoError(t, err)
		require.Equal(t, 2, found)
		found, err = b.Recover(b.ctx, []string{"dead"})
		require.NoError(t, err)
		require.Zero(t, found)
		for state, list := range map[string]func(string, ...asynq.ListOption) ([]*asynq.TaskInfo, error){
			"pending": b.inspector().ListPendingTasks, "active": b.inspector().ListActiveTasks,
		} {
			tasks, err := list(queue)
			require.NoError(t, err)
			var got []int
			for _, task := range tasks {
				_, index, err := DecodeTask(task.Payload)
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
		id := b.submit(1, spec()).ID
		queue := b.queueOf(crm(batch.Interactive), id, 0)
		prefix := asynqPrefix(queue)
		take := func() string {
			task, err := b.rdb.RPopLPush(b.ctx, prefix+"pending", prefix+"active").Result()
			require.NoError(t, err)
			require.NoError(t, b.rdb.HSet(b.ctx, prefix+"t:"+task, "state", "active").Err())
			return task
		}
		require.Equal(t, taskID(id, 0, ""), take())
		begun, err := b.Begin(b.ctx, id, 0, "dead")
		require.NoError(t, err)
		found, err := b.Recover(b.ctx, []string{"dead"})
		require.NoError(t, err)
		require.Equal(t, 1, found)
		rescue := taskID(id, 0, string(begun.Token))
		require.Equal(t, rescue, take())
		found, err = b.Recover(b.ctx, []string{"rescuer"})
		require.NoError(t, err)
		require.Equal(t, 1, found)
		require.Equal(t, rescue, take())
		// Once it is decided, a task that is still held brings nothing.
		_, err = b.Release(b.ctx, id, 0, begun.Token)
		require.NoError(t, err)
		again, err := b.Begin(b.ctx, id, 0, "third")
		require.NoError(t, err)
		require.Equal(t, batch.Run, again.Verdict)
		found, err = b.Recover(b.ctx, []string{"rescuer"})
		require.NoError(t, err)
		require.Zero(t, found)
	})
}
