package tasks_test

import (
	"strings"
	"testing"

	"github.com/hibiken/asynq"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/tasks"
)

// Were asynq to change its message, this would fail.
func TestTheMessageOfATaskIsWhatAsynqsClientWrites(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		client := asynq.NewClientFromRedisClient(b.DB.Client)
		for queue, kind := range map[string]string{"crm.bulk": tasks.TaskAction, tasks.WebhookQueue: tasks.TaskWebhook} {
			template := tasks.NewMessageTemplate(queue, kind)
			for _, n := range []int{1, 127, 128, 20_000} {
				id, payload := strings.Repeat("i", n), []byte(strings.Repeat("\x00p", n))
				_, err := client.EnqueueContext(b.Ctx, asynq.NewTask(kind, payload),
					asynq.Queue(queue), asynq.TaskID(id), asynq.MaxRetry(tasks.MaxRetry), asynq.Timeout(tasks.TaskTimeout))
				require.NoError(t, err)
				written := queuetest.Must(b.DB.Client.HGet(b.Ctx, tasks.AsynqPrefix(queue)+"t:"+id, "msg").Result())
				require.Equal(t, written, string(template.Message(id, payload)))
			}
		}
	})
}

func TestATaskThatIsThereIsNotEnqueuedAgain(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		for _, of := range []struct{ from, to, waiting int }{{2, 5, 3}, {0, 8, 8}, {0, 8, 8}} {
			require.NoError(t, b.Enqueue(b.Ctx, "some", queuetest.Crm(batch.Bulk), queuetest.Span(of.from, of.to)))
			require.Len(t, b.Listed(batch.Bulk, b.Inspector().ListPendingTasks), of.waiting)
		}
	})
}
