package fanout_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/fanout"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/repair"
	"github.com/batchd/batchd/queue/tasks"
)

func TestEveryActionBecomesATaskThatAsynqCanSee(t *testing.T) {
	const many = 1250 // more than one poll takes, and than a page
	onEveryStore(t, func(t *testing.T, b *bundle) {
		small, large := b.Submit(3, queuetest.Spec()), b.Submit(many, queuetest.Spec())
		b.Background.Wait()
		require.NoError(t, b.Fanout.Offer(b.Ctx, fanout.Batch{Flow: tasks.Flow{Owner: "me", ID: large.ID, Round: "", Route: queuetest.Crm(batch.Bulk)}, Total: many}), "offering twice")
		for lane, of := range map[batch.Lane]*batch.Batch{batch.Interactive: small, batch.Bulk: large} {
			b.takeAllOf(lane)
			var got []int
			for _, task := range b.Listed(lane, b.Inspector().ListActiveTasks) { // which reads the messages
				id, index, err := tasks.DecodeTask(task.Payload)
				require.NoError(t, err)
				require.Equal(t, of.ID, id)
				require.Equal(t, fmt.Sprintf("1:%s:%d", id, index), string(task.Payload), "nothing else stands in a payload")
				require.Equal(t, tasks.TaskID(id, index, ""), task.ID)
				queue := b.Tasks.QueueOf(queuetest.Crm(lane), id, index)
				require.Equal(t, queue, task.Queue)
				written := queuetest.Must(b.DB.Client.HGet(b.Ctx, tasks.AsynqPrefix(queue)+"t:"+task.ID, "msg").Result())
				require.Equal(t, string(tasks.NewMessageTemplate(queue, tasks.TaskAction).Message(task.ID, task.Payload)), written, "as asynq's client writes it")
				got = append(got, index)
			}
			slices.Sort(got)
			require.Equal(t, queuetest.Span(0, of.Counts.Total), got)
		}
		cancelled, cancel := context.WithCancel(b.Ctx)
		cancel()
		require.ErrorIs(t, b.Enqueue(cancelled, large.ID, queuetest.Crm(batch.Bulk), queuetest.Span(0, 3)), context.Canceled)
	})
}

// takeAllOf takes all waiting actions of a lane.
func (b *bundle) takeAllOf(lane batch.Lane) {
	b.T.Helper()
	for _, queue := range b.Tasks.QueuesOf(queuetest.Crm(lane)) {
		for more := true; more; {
			_, more = b.Poll(&tasks.Poll{Queue: queue, Want: 1000})
		}
	}
}

func TestItIsNotedOfSmallBatchesTogetherThatTheyAreEnqueued(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		b.Submit(3, queuetest.Spec()) // the steps are known there
		noted := func(id string) string {
			return queuetest.Must(b.DB.Client.HGet(b.Ctx, keys.KeysOf(id).Meta, "enqueued").Result())
		}
		seen := &queuetest.Exchanges{}
		b.DB.Client.AddHook(seen)
		b.Fanout.RecordPause = time.Hour
		var ids []string
		for _, u := range []batch.Upload{b.Upload(3), b.Upload(3)} {
			made, _, err := u.Commit(b.Ctx, queuetest.Spec())
			require.NoError(t, err)
			ids = append(ids, made.ID)
			if b.DB.Cluster == nil { // else they are enqueued in an exchange of their own, and that is noted at once
				require.Equal(t, "0", noted(made.ID))
			}
		}
		b.Background.Stop() // as at the end
		for _, id := range ids {
			require.Equal(t, "3", noted(id))
		}
		if b.DB.Cluster == nil {
			require.Len(t, seen.With(fanout.Steps.Progress.Hash()), 1)
		}
	})
}

func TestABatchWhoseEnqueueingWasNotNotedIsEnqueuedOnce(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.Submit(3, queuetest.Spec()).ID
		b.Background.Wait()
		long := time.Now().Add(-2 * repair.FanOutTimeout).UnixMilli()
		require.NoError(t, b.DB.Client.HSet(b.Ctx, keys.KeysOf(id).Meta, "enqueued", 0, "fanned", long, "created", long).Err())
		require.Equal(t, 1, b.Sweep().Resumed)
		require.Len(t, b.Pending(batch.Interactive), 3)
		require.Zero(t, b.Sweep().Resumed)
	})
}
