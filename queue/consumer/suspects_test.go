package consumer

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/tasks"
)

// takeAll takes all tasks, as a worker that dies then.
func (b *bundle) takeAll(n int) {
	b.T.Helper()
	b.SkipConfirmDelay()
	target := newConsumer(b.consumers, ServerConfig{Targets: []Target{{Name: "crm", Slots: 2 * n}}}).targets[0]
	b.Eventually("all tasks", func() bool {
		target.markAllNonEmpty()
		target.poll(true)
		return len(b.Active()) == n
	})
}

func TestTasksOfEndedBatchesDoNotStayInAsynqsRecords(t *testing.T) {
	ends := map[string]func(b *bundle, id string){
		"cancelled": func(b *bundle, id string) { queuetest.Must(b.Cancel(b.Ctx, "me", id)) },
		"deleted":   func(b *bundle, id string) { require.NoError(b.T, b.Delete(b.Ctx, "me", id)) },
		"finished": func(b *bundle, id string) {
			for i := range 3 {
				b.End(id, i, batch.Succeeded)
			}
		},
	}
	onEveryStore(t, func(t *testing.T, b *bundle) {
		for name, end := range ends {
			t.Log(name)
			id := b.Submit(3, queuetest.Spec()).ID
			b.takeAll(3)
			end(b, id)
			b.Round()
			require.Len(t, b.Active(), 3, "a worker may be about to end them")
			b.ExpireLeases()
			b.Round()
			require.Empty(t, b.Active())
			for key := range b.AllKeys() {
				word := queuetest.AsynqKeyKind(key)
				require.NotEqual(t, "t", word)
				require.NotEqual(t, "lease", word)
			}
		}
	})
}

func TestTasksOfADeadWorkerWhoseBatchesHaveEndedGoSoon(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.Submit(3, queuetest.Spec()).ID
		b.takeAll(3)
		for i := range 3 {
			b.End(id, i, batch.Succeeded)
		}
		_, err := b.Sweeper.Recovery.Recover(b.Ctx, "w1", []string{"dead"})
		require.NoError(t, err)
		require.Empty(t, b.Active())
	})
}

// The lease of a task that a live worker runs has expired by another clock.
func TestATaskThatIsRunStaysThoughItsLeaseHasRunOut(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.Submit(2, queuetest.Spec()).ID
		b.takeAll(2)
		b.Begin(id, 0)
		b.Begin(id, 1)
		b.ExpireLeases()
		paused := b.SkipConfirmDelay()
		b.Round()
		require.Len(t, b.Active(), 2)
		require.Zero(t, paused.Load(), "there is nothing to look at twice")
	})
}

func TestATaskWhoseMessageIsGoneLeavesAsynqsRecords(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.Submit(1, queuetest.Spec()).ID
		b.takeAll(1)
		b.End(id, 0, batch.Succeeded)
		for _, queue := range b.Tasks.QueuesOf(queuetest.Crm(batch.Interactive)) { // asynq's recoverer passes it over
			require.NoError(t, b.DB.Client.Del(b.Ctx, tasks.AsynqPrefix(queue)+"t:"+tasks.TaskID(id, 0, "")).Err())
		}
		b.ExpireLeases()
		b.Round()
		require.Empty(t, b.Active())
	})
}
