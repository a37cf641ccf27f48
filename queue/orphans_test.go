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
		queue := QueueName("crm", batch.Interactive)
		// All four are taken, as a worker takes them. Two of them were begun by one that is alive.
		prefix := "asynq:{" + queue + "}:"
		for i := range 4 {
			task, err := b.rdb.RPopLPush(b.ctx, prefix+"pending", prefix+"active").Result()
			require.NoError(t, err)
			require.Equal(t, taskID(id, i), task)
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
