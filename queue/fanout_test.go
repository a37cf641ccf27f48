package queue

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

func TestEveryActionBecomesATaskThatAsynqCanSee(t *testing.T) {
	const many = 1250 // more than one poll takes, and than a page
	onEveryStore(t, func(t *testing.T, b *bundle) {
		small, large := b.submit(3, spec()), b.submit(many, spec())
		b.background.Wait()
		require.NoError(t, b.fanOut(b.ctx, fanOut{flow: flow{"me", large.ID, "", crm(batch.Bulk)}, total: many}), "offering twice")
		for lane, of := range map[batch.Lane]*batch.Batch{batch.Interactive: small, batch.Bulk: large} {
			b.takeAllOf(lane)
			var got []int
			for _, task := range b.listed(lane, b.inspector().ListActiveTasks) { // which reads the messages
				id, index, err := DecodeTask(task.Payload)
				require.NoError(t, err)
				require.Equal(t, of.ID, id)
				require.Equal(t, fmt.Sprintf("1:%s:%d", id, index), string(task.Payload), "nothing else stands in a payload")
				require.Equal(t, taskID(id, index, ""), task.ID)
				queue := b.queueOf(crm(lane), id, index)
				require.Equal(t, queue, task.Queue)
				written := must(b.db.Client.HGet(b.ctx, asynqPrefix(queue)+"t:"+task.ID, "msg").Result())
				require.Equal(t, string(newMessageTemplate(queue, TaskAction).message(task.ID, task.Payload)), written, "as asynq's client writes it")
				got = append(got, index)
			}
			slices.Sort(got)
			require.Equal(t, span(0, of.Counts.Total), got)
		}
		cancelled, cancel := context.WithCancel(b.ctx)
		cancel()
		require.ErrorIs(t, b.enqueue(cancelled, large.ID, crm(batch.Bulk), span(0, 3)), context.Canceled)
	})
}

// takeAllOf takes all waiting actions of a lane.
func (b *bundle) takeAllOf(lane batch.Lane) {
	b.t.Helper()
	for _, queue := range b.queuesOf(crm(lane)) {
		for more := true; more; {
			_, more = b.polls(queue, 1000, false)
		}
	}
}

func TestAPayloadOfAnotherMakeIsRefused(t *testing.T) {
	t.Parallel()
	for _, payload := range []string{"", "1", "1:id", "1::3", "2:id:3", "1:id:-1", "1:id:x", "1:id:"} {
		_, _, err := DecodeTask([]byte(payload))
		require.ErrorIs(t, err, errTask, payload)
	}
}

func TestItIsNotedOfSmallBatchesTogetherThatTheyAreEnqueued(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		b.submit(3, spec()) // the steps are known there
		noted := func(id string) string {
			return must(b.db.Client.HGet(b.ctx, keysOf(id).meta, "enqueued").Result())
		}
		seen := &sent{}
		b.db.Client.AddHook(seen)
		b.offered.pause = time.Hour
		first, second := b.upload(3), b.upload(3)
		for _, u := range []*upload{first, second} {
			_, _, err := u.Commit(b.ctx, spec())
			require.NoError(t, err)
			if b.shards == 1 { // else they are enqueued in an exchange of their own, and that is noted at once
				require.Equal(t, "0", noted(u.id))
			}
		}
		b.background.Stop() // as at the end
		require.Equal(t, "3", noted(first.id))
		require.Equal(t, "3", noted(second.id))
		if b.shards == 1 {
			require.Len(t, seen.with(b.steps.progress.Hash()), 1)
		}
	})
}

func TestABatchWhoseEnqueueingWasNotNotedIsEnqueuedOnce(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.submit(3, spec()).ID
		b.background.Wait()
		long := time.Now().Add(-2 * fanOutPatience).UnixMilli()
		require.NoError(t, b.db.Client.HSet(b.ctx, keysOf(id).meta, "enqueued", 0, "fanned", long, "created", long).Err())
		require.Equal(t, 1, b.sweep().Resumed)
		require.Len(t, b.pending(batch.Interactive), 3)
		require.Zero(t, b.sweep().Resumed)
	})
}
