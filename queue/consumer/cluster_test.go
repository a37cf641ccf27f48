package consumer

import (
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/tasks"
)

func TestANodeThatDoesNotAnswerCostsNoSlots(t *testing.T) {
	t.Parallel()
	for name, trouble := range queuetest.TroubledNode {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			shared, node := queuetest.OpenCluster(t)
			b := local(shared)
			require.NoError(t, b.DB.Client.ZAdd(b.Ctx, keys.OpenKey, redis.Z{Member: "open"}).Err()) // so that the queues are polled
			var got queuetest.Indexes
			release := make(chan struct{})
			server, _ := b.serve(Target{Slots: 8}, func(index int, _ *Slot) error {
				got.Add(index)
				if index >= 1000 {
					<-release
				}
				return nil
			})
			target := server.consumer.targets[0]
			var brought []tasks.Task
			for _, queue := range b.Tasks.QueuesOf(queuetest.Crm(batch.Interactive)) {
				if b.DB.NodeOf(b.Ctx, tasks.AsynqPrefix(queue)+"pending").Options().Addr == node.Addr {
					continue
				}
				for range 20 {
					i := len(brought)
					brought = append(brought, tasks.Task{Queue: queue, Kind: tasks.TaskAction, ID: tasks.TaskID("test", i, ""), Payload: tasks.EncodeTask("test", i)})
				}
			}
			b.Eventually("a task of each", func() bool {
				err := b.Tasks.EnqueueTasks(b.Ctx, brought[:1])
				return err == nil
			})
			trouble(node)
			target.markAllNonEmpty() // a poll of all queues is under way
			err := b.Tasks.EnqueueTasks(b.Ctx, brought)
			require.NoError(t, err)
			began := time.Now()
			b.Eventually("every task of the other nodes", func() bool { return len(got.Sorted()) >= len(brought) })
			t.Logf("%d tasks after %s", len(brought), time.Since(began))
			b.Eventually("their ends", func() bool {
				target.mu.Lock()
				defer target.mu.Unlock()
				return target.slots.running == 0
			})

			var blocking []tasks.Task
			for i := range 8 {
				blocking = append(blocking, tasks.Task{Queue: brought[0].Queue, Kind: tasks.TaskAction, ID: tasks.TaskID("test", 1000+i, ""), Payload: tasks.EncodeTask("test", 1000+i)})
			}
			err = b.Tasks.EnqueueTasks(b.Ctx, blocking)
			require.NoError(t, err)
			b.Eventually("all slots", func() bool {
				target.mu.Lock()
				defer target.mu.Unlock()
				return target.slots.running == 8
			})
			close(release)
			if name == "frozen" {
				node.Thaw()
			}
			b.Eventually("nothing in hand", func() bool {
				target.mu.Lock()
				defer target.mu.Unlock()
				return target.slots.running == 0 && target.slots.inHand <= 8
			})
		})
	}
}
