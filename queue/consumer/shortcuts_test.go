package consumer

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/ledger"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/tasks"
	"github.com/batchd/batchd/queue/upload"
)

// With each shortcut and without it, small batches run and the requests that wait for them learn of the end.
func TestTheShortcutsOfOneProcessCanBeSwitchedOff(t *testing.T) {
	t.Parallel()
	for name, off := range map[string]func(b *bundle){
		"both on":      func(*bundle) {},
		"no piggyback": func(b *bundle) { b.Uploads.Piggyback = tasks.NoPiggyback{} },
		"no hand-over": func(b *bundle) { b.Ledger.HandOver = ledger.NoHandOver{} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := open(t, rdb.Embedded)
			off(b)
			finish := make(chan int, 3)
			b.serve(Target{Slots: 3}, func(index int, _ *Slot) error {
				finish <- index
				return nil
			})
			id := b.Submit(3, queuetest.Spec()).ID
			wake, stop := b.Watch(id)
			defer stop()
			for range 3 {
				b.End(id, <-finish, batch.Succeeded)
			}
			ended := <-wake
			if name == "no hand-over" {
				require.Nil(t, ended, "the waiting request reads the batch")
			}
			require.Equal(t, batch.StatusCompleted, b.Read(id).Status)
		})
	}
}

func TestACommitTakesTasksOnlyWithPiggyback(t *testing.T) {
	t.Parallel()
	b := open(t, rdb.Embedded)
	b.serve(Target{Slots: 3}, func(int, *Slot) error { return nil })
	b.Submit(1, queuetest.Spec()) // the scripts are loaded
	sentWith := func() string {
		seen := &queuetest.Exchanges{}
		b.DB.Client.AddHook(seen)
		b.Submit(1, queuetest.Spec())
		return seen.With(upload.Steps.Commit.Hash())[0]
	}
	b.Eventually("a consumer that is idle", func() bool { return strings.Contains(sentWith(), tasks.Steps.Poll.Hash()) })
	b.Uploads.Piggyback = tasks.NoPiggyback{}
	for range 10 {
		require.NotContains(t, sentWith(), tasks.Steps.Poll.Hash())
	}
	require.Zero(t, tasks.NoPoll{}.Read(context.Background()))
}
