package queue

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/rdb"
)

// logged is a log that can be read while it is written.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) count(message string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), message)
}

const corrected = "slots were counted as used by tasks that do not run: corrected"

func TestSlotsThatNoTaskUsesAreFoundAndLogged(t *testing.T) {
	leaks := map[string]func(l *line){
		"counts too high": func(l *line) {
			l.count(l.lanes[0], 3)
			l.sit(3)
		},
		"counts too low": func(l *line) { l.count(l.lanes[0], -2) },
		"tasks that were taken and dropped": func(l *line) {
			for _, q := range l.lanes[:1] {
				k := &task{lane: q, id: "none:0", place: Place{lane: q}}
				l.audit.took([]*task{k})
				l.count(q, 1)
			}
		},
		"tasks that were seated and never run": func(l *line) {
			q := l.lanes[0]
			k := &task{lane: q, id: "none:0", place: Place{lane: q}, seated: true}
			l.audit.took([]*task{k})
			l.count(q, 1)
			l.sit(1)
		},
	}
	t.Parallel()
	for name, leak := range leaks {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := open(t, rdb.Embedded)
			var log logged
			b.log = slog.New(slog.NewTextHandler(&log, nil))
			begun, release := make(chan struct{}, 6), make(chan struct{})
			server, _ := b.serve(Line{Places: 4}, func(int, *Place) error {
				begun <- struct{}{}
				<-release
				return nil
			})
			l := server.taker.lines[0]
			b.submit(6, spec())
			running := func() int {
				l.mu.Lock()
				defer l.mu.Unlock()
				return l.countHeld().seated
			}
			for range 4 { // a task that has a slot and no runner yet would keep others from being suspected
				<-begun
			}
			require.Equal(t, 4, running())
			for range 3 {
				l.auditSlots()
			}
			require.Zero(t, log.count(corrected), "the counts are right")
			require.Equal(t, 4, running(), "and the tasks still run")

			l.mu.Lock()
			leak(l)
			l.mu.Unlock()
			for range 3 {
				l.auditSlots()
			}
			require.Equal(t, 1, log.count(corrected), log.text.String())
			close(release)
			b.eventually("the end of all", func() bool {
				l.mu.Lock()
				defer l.mu.Unlock()
				return l.seated == 0 && l.inHand == 0 && l.leaving == 0
			})
			l.auditSlots()
			require.Equal(t, 1, log.count(corrected))
			require.Zero(t, b.running.Load())
		})
	}
}

// The counts are right at every moment, whatever tasks do.
func TestTheCountsOfSlotsAreThoseOfTheTasks(t *testing.T) {
	t.Parallel()
	b := open(t, rdb.Embedded)
	server, _ := b.serve(Line{Places: 8}, func(index int, place *Place) error {
		if index%3 == 0 {
			place.Leave()
		}
		if index%7 == 0 {
			return context.DeadlineExceeded
		}
		return nil
	})
	l := server.taker.lines[0]
	for range 5 {
		b.submit(batch.InteractiveActions, spec())
	}
	b.submit(300, spec())
	b.eventually("the end", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		require.Equal(t, slots{l.inHand, l.inBulk, l.seated, l.leaving}, l.countHeld())
		return l.inHand == 0 && len(l.ready) == 0 && len(l.audit.held) == 0
	})
}
