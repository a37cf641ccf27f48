package queue

import (
	"strings"
	"testing"

	"github.com/hibiken/asynq"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

func TestAFilledFormIsWhatAsynqWrites(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		form, err := b.taskForm(b.ctx, "crm.bulk", TaskAction)
		require.NoError(t, err)
		for _, n := range []int{1, 127, 128, 20_000} {
			id, payload := strings.Repeat("i", n), []byte(strings.Repeat("\x00p", n))
			r := &recorder{UniversalClient: b.rdb}
			_, err := asynq.NewClientFromRedisClient(r).EnqueueContext(b.ctx, asynq.NewTask(TaskAction, payload),
				asynq.Queue("crm.bulk"), asynq.TaskID(id), asynq.MaxRetry(forever), asynq.Timeout(taskTimeout))
			require.NoError(t, err)
			require.Equal(t, r.message, form.message(id, payload))
		}
	})
}

func TestATaskThatIsThereIsNotEnqueuedAgain(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		got, err := b.enqueue(b.ctx, "some", crm(batch.Bulk), "", span(2, 5))
		require.NoError(t, err)
		require.Equal(t, enqueued{added: 3, waiting: 3}, got)
		got, err = b.enqueue(b.ctx, "some", crm(batch.Bulk), "", span(0, 8))
		require.NoError(t, err)
		require.Equal(t, enqueued{added: 5, waiting: 8}, got)
		got, err = b.enqueue(b.ctx, "some", crm(batch.Bulk), "", span(0, 8))
		require.NoError(t, err)
		require.Equal(t, enqueued{added: 0, waiting: 8}, got)
		require.Len(t, b.pending(batch.Bulk), 8)
	})
}
