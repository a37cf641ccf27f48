package consumer

import (
	"context"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/rdb"
)

func TestSlotsThatNoTaskUsesAreFoundAndLogged(t *testing.T) {
	leaks := map[string]func(l *targetConsumer){
		"counts too high": func(l *targetConsumer) {
			l.slots.count(l.queues[0], 3)
			l.slots.addRunning(3)
		},
		"counts too low": func(l *targetConsumer) { l.slots.count(l.queues[0], -2) },
		"tasks that were taken and dropped": func(l *targetConsumer) {
			for _, q := range l.queues[:1] {
				k := &task{queue: q, id: "none:0", slot: Slot{queue: q}}
				l.slots.held[&k.slot] = k
				l.slots.count(q, 1)
			}
		},
		"tasks that were seated and never run": func(l *targetConsumer) {
			q := l.queues[0]
			k := &task{queue: q, id: "none:0", slot: Slot{queue: q}, running: true}
			l.slots.held[&k.slot] = k
			l.slots.count(q, 1)
			l.slots.addRunning(1)
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
			l := server.consumer.targets[0]
			b.Submit(6, queuetest.Spec())
			running := func() int {
				l.mu.Lock()
				defer l.mu.Unlock()
				return l.slots.recount(l.queues).running
			}
			for range 4 { // a task that has a slot and no runner yet would keep others from being suspected
				<-begun
			}
			require.Equal(t, 4, running())
			for range 3 {
				l.auditSlots()
			}
			require.Zero(t, log.Count(queuetest.Corrected), "the counts are right")
			require.Equal(t, 4, running(), "and the tasks still run")

			l.mu.Lock()
			leak(l)
			l.mu.Unlock()
			for range 3 {
				l.auditSlots()
			}
			require.Equal(t, 1, log.Count(queuetest.Corrected), log.Text.String())
			close(release)
			b.Eventually("the end of all", func() bool {
				l.mu.Lock()
				defer l.mu.Unlock()
				return l.slots.running == 0 && l.slots.inHand == 0 && l.slots.finishing == 0
			})
			l.auditSlots()
			require.Equal(t, 1, log.Count(queuetest.Corrected))
			require.Zero(t, b.Ledger.AddRunning(0))
		})
	}
}

// The counts are right at every moment, whatever tasks do.
func TestTheCountsOfSlotsAreThoseOfTheTasks(t *testing.T) {
	t.Parallel()
	b := open(t, rdb.Embedded)
	server, _ := b.serve(Target{Slots: 8}, func(index int, place *Slot) error {
		if index%3 == 0 {
			place.Leave()
		}
		if index%7 == 0 {
			return context.DeadlineExceeded
		}
		return nil
	})
	l := server.consumer.targets[0]
	for range 5 {
		b.Submit(batch.InteractiveActions, queuetest.Spec())
	}
	b.Submit(300, queuetest.Spec())
	b.Eventually("the end", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		require.Equal(t, l.slots.counts, l.slots.recount(l.queues))
		require.Len(t, l.runners.all, l.runners.idle+l.slots.running+l.slots.finishing)
		require.LessOrEqual(t, l.slots.running, 8)
		return l.slots.inHand == 0 && len(l.slots.ready) == 0 && len(l.slots.held) == 0
	})
}
