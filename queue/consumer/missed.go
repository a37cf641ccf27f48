package consumer

import (
	"context"
)

// reportMissed has the sweeper told that the queue may have tasks that were taken and that
// nobody holds, with the lock held: a turn was not answered, or they could not be given
// back. Otherwise it would find them only once their batches have stood still for a while.
func (q *taskQueue) reportMissed() {
	q.lost = true
	if q.reporting {
		return
	}
	q.reporting = true
	s := q.t.s
	s.background.Go(func(ctx context.Context) {
		for q.unreportedLoss() {
			if err := s.tasks.ReportLost(ctx, q.name); err != nil {
				s.log.Warn("tasks that were taken may come again late", "queue", q.name, "error", err)
			}
		}
	})
}

// unreportedLoss reports whether tasks were missed since it was asked last.
func (q *taskQueue) unreportedLoss() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	lost := q.lost
	q.lost, q.reporting = false, lost
	return lost
}
