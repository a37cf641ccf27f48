package queue

import (
	"strings"
	"testing"

	"github.com/hibiken/asynq"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

// Were asynq to change its message, this would fail.
func TestTheMessageOfATaskIsWhatAsynqsClientWrites(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		client := asynq.NewClientFromRedisClient(b.db.Client)
		for queue, kind := range map[string]string{"crm.bulk": TaskAction, WebhookQueue: TaskWebhook} {
			template := newMessageTemplate(queue, kind)
			for _, n := range []int{1, 127, 128, 20_000} {
				id, payload := strings.Repeat("i", n), []byte(strings.Repeat("\x00p", n))
				_, err := client.EnqueueContext(b.ctx, asynq.NewTask(kind, payload),
					asynq.Queue(queue), asynq.TaskID(id), asynq.MaxRetry(forever), asynq.Timeout(taskTimeout))
				require.NoError(t, err)
				written := must(b.db.Client.HGet(b.ctx, asynqPrefix(queue)+"t:"+id, "msg").Result())
				require.Equal(t, written, string(template.message(id, payload)))
			}
		}
	})
}

func TestATaskThatIsThereIsNotEnqueuedAgain(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		for _, of := range []struct{ from, to, waiting int }{{2, 5, 3}, {0, 8, 8}, {0, 8, 8}} {
			require.NoError(t, b.enqueue(b.ctx, "some", crm(batch.Bulk), span(of.from, of.to)))
			require.Len(t, b.listed(batch.Bulk, b.inspector().ListPendingTasks), of.waiting)
		}
	})
}
