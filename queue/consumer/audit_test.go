package consumer

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/rdb"
)

func TestSlotsThatNoTaskUsesAreFoundAndLogged(t *testing.T) {
	leaks := map[string]func(target *targetConsumer){
		"counts too high": func(target *targetConsumer) {
			target.slots.count(target.queues[0], 3)
			target.slots.addRunning(3)
		},
		"counts too low": func(target *targetConsumer) { target.slots.count(target.queues[0], -2) },
		"tasks that were taken and dropped": func(target *targetConsumer) {
			for _, q := range target.queues[:1] {
				k := &task{queue: q, id: "none:0", slot: Slot{queue: q}}
				target.slots.held[&k.slot] = k
				target.slots.count(q, 1)
			}
		},
		"tasks that got slots and never ran": func(target *targetConsumer) {
			q := target.queues[0]
			k := &task{queue: q, id: "none:0", slot: Slot{queue: q}, running: true}
			target.slots.held[&k.slot] = k
			target.slots.count(q, 1)
			target.slots.addRunning(1)
		},
	}
	t.Parallel()
	for name, leak := range leaks {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := open(t, rdb.Embedded)
			var log queuetest.LogBuffer
			b.consumers.store.Log = slog.New(slog.NewTextHandler(&log, nil))
			begun, release := make(chan struct{}, 6), make(chan struct{})
			server, _ := b.serve(Target{Slots: 4}, func(int, *Slot) error {
				begun <- struct{}{}
				<-release
				return nil
			})
			target := server.consumer.targets[0]
			b.Submit(6, queuetest.Spec())
			running := func() int {
				target.mu.Lock()
				defer target.mu.Unlock()
				return target.slots.recount(target.queues).running
			}
			for range 4 { // a task that has a slot and no runner yet would keep others from being suspected
				<-begun
			}
			require.Equal(t, 4, running())
			for range 3 {
				target.auditSlots()
			}
			require.Zero(t, log.Count(queuetest.Corrected), "the counts are right")
			require.Equal(t, 4, running(), "and the tasks still run")

			target.mu.Lock()
			leak(target)
			target.mu.Unlock()
			for range 3 {
				target.auditSlots()
			}
			require.Equal(t, 1, log.Count(queuetest.Corrected), log.Text.String())
			if strings.HasPrefix(name, "tasks") {
				b.Eventually("the note for the sweeper", func() bool {
					notes, err := b.DB.Members(b.Ctx, keys.LostKey)
					return err == nil && len(notes) == 1 && strings.HasPrefix(notes[0], target.queues[0].name+" ")
				})
			} else {
				require.Empty(t, queuetest.Must(b.DB.Members(b.Ctx, keys.LostKey)))
			}
			close(release)
			b.Eventually("the end of all", func() bool {
				target.mu.Lock()
				defer target.mu.Unlock()
				return target.slots.running == 0 && target.slots.inHand == 0 && target.slots.finishing == 0
			})
			target.auditSlots()
			require.Equal(t, 1, log.Count(queuetest.Corrected))
			require.Zero(t, b.Ledger.AddRunning(0))
		})
	}
}

// The counts are right at every moment, whatever tasks do.
func TestTheCountsOfSlotsAreThoseOfTheTasks(t *testing.T) {
	t.Parallel()
	b := open(t, rdb.Embedded)
	const small, large, fail = 5, 300, 100
	var ended, failed atomic.Int32
	server, _ := b.serve(Target{Slots: 8}, func(index int, slot *Slot) error {
		if index%3 == 0 {
			slot.Leave()
		}
		if index%7 == 0 && failed.Add(1) <= fail {
			return context.DeadlineExceeded
		}
		ended.Add(1)
		return nil
	})
	target := server.consumer.targets[0]
	for range small {
		b.Submit(batch.InteractiveActions, queuetest.Spec())
	}
	b.Submit(large, queuetest.Spec())
	b.Eventually("the end", func() bool {
		target.mu.Lock()
		defer target.mu.Unlock()
		require.Equal(t, target.slots.counts, target.slots.recount(target.queues))
		require.Len(t, target.runners.all, target.runners.idle+target.slots.running+target.slots.finishing)
		require.LessOrEqual(t, target.slots.running, 8)
		return ended.Load() == small*batch.InteractiveActions+large && target.slots.inHand == 0 && len(target.slots.ready) == 0 && len(target.slots.held) == 0
	})
}
