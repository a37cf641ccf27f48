package queue

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/rdb"
)

// With each shortcut and without it, small batches run and the requests that wait for them hear of the end.
func TestTheShortcutsOfOneProcessCanBeSwitchedOff(t *testing.T) {
	t.Parallel()
	for name, off := range map[string]func(b *bundle){
		"both on":      func(*bundle) {},
		"no piggyback": func(b *bundle) { b.piggyback = noPiggyback{} },
		"no hand-over": func(b *bundle) { b.handOver = noHandOver{} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := open(t, rdb.Embedded)
			off(b)
			finish := make(chan int, 3)
			b.serve(Line{Places: 3}, func(index int, _ *Place) error {
				finish <- index
				return nil
			})
			id := b.submit(3, spec()).ID
			wake, stop := b.Watch(id)
			defer stop()
			for range 3 {
				b.end(id, <-finish, batch.Succeeded)
			}
			ended := <-wake
			if name == "no hand-over" {
				require.Nil(t, ended, "the waiting request reads the batch")
			}
			require.Equal(t, batch.StatusCompleted, b.get(id).Status)
		})
	}
}

func TestACommitTakesAlongOnlyWithPiggyback(t *testing.T) {
	t.Parallel()
	b := open(t, rdb.Embedded)
	b.serve(Line{Places: 3}, func(int, *Place) error { return nil })
	b.submit(1, spec()) // the scripts are loaded
	sentWith := func() string {
		seen := &sent{}
		b.db.Client.AddHook(seen)
		b.submit(1, spec())
		return seen.with(b.steps.commit.Hash())[0]
	}
	b.eventually("a consumer that is idle", func() bool { return strings.Contains(sentWith(), pollStep.Hash()) })
	b.piggyback = noPiggyback{}
	for range 10 {
		require.NotContains(t, sentWith(), pollStep.Hash())
	}
	require.Zero(t, noPoll{}.took(context.Background()))
}
