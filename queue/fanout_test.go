package queue

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

func TestEveryActionBecomesATaskThatAsynqCanSee(t *testing.T) {
	const many = 1250 // more than one goes on with in a row, and than a page
	onEveryStore(t, func(t *testing.T, b *bundle) {
		small, large := b.submit(3, spec()), b.submit(many, spec())
		b.fanouts.wg.Wait()
		require.Len(t, b.pending(batch.Bulk), many)
		tasks := b.pending(batch.Interactive)
		require.Len(t, tasks, 3)
		for n, task := range tasks {
			id, index, err := DecodeTask(task.Payload)
			require.NoError(t, err)
			require.Equal(t, TaskAction, task.Type)
			require.Equal(t, small.ID, id)
			require.Equal(t, n, index)
			require.Equal(t, fmt.Sprintf("1:%s:%d", small.ID, n), string(task.Payload), "nothing else stands in a payload")
		}
		seen := map[string]bool{}
		for _, task := range b.pending(batch.Bulk) {
			seen[task.ID] = true
		}
		require.Len(t, seen, many)
		require.NoError(t, b.fanOut(b.ctx, fanOut{flow: flow{"me", large.ID, "", crm(batch.Bulk)}, total: many}), "enqueueing twice")
		require.Len(t, b.pending(batch.Bulk), many)

		cancelled, cancel := context.WithCancel(b.ctx)
		cancel()
		_, err := b.enqueue(cancelled, large.ID, crm(batch.Bulk), span(0, 3))
		require.ErrorIs(t, err, context.Canceled)
	})
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
		b.fanouts.pause = time.Hour
		first, second := b.upload(3), b.upload(3)
		for _, u := range []*upload{first, second} {
			_, _, err := u.Commit(b.ctx, spec())
			require.NoError(t, err)
			if b.shards == 1 { // else they are enqueued in an exchange of their own, and that is noted at once
				require.Equal(t, "0", noted(u.id))
			}
		}
		b.fanouts.stop() // as at the end
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
		b.fanouts.wg.Wait()
		long := time.Now().Add(-2 * fanOutPatience).UnixMilli()
		require.NoError(t, b.db.Client.HSet(b.ctx, keysOf(id).meta, "enqueued", 0, "fanned", long, "created", long).Err())
		require.Equal(t, 1, b.sweep().Resumed)
		require.Len(t, b.pending(batch.Interactive), 3)
		require.Zero(t, b.sweep().Resumed)
	})
}
