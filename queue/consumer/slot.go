package consumer

import (
	"context"
	"time"

	"github.com/batchd/batchd/queue/throttle"
)

// Slot is the right of a running task to send requests to its target. The action of the task uses it from
// one goroutine at a time: for each request it calls Approach and Ready, and when no further
// request follows, Leave.
type Slot struct {
	queue *taskQueue
	claim *throttle.Claim // of a target with a rate
	since time.Time       // when the action began
	left  bool            // written with the mutex of the target held
}

// Paced reports whether requests to the target have send times, because the target has a rate.
func (s *Slot) Paced() bool { return s.claim != nil }

// Approach returns shortly before the send time of the task's request, when the request needs a
// connection, and when fewer than [Target.Slots] requests are under way. Without a rate it
// returns at once. It returns [throttle.ErrNoSendTime] if there is no send time soon enough: then the
// action has to come again. It returns the cause if the context ends.
func (s *Slot) Approach(ctx context.Context) error {
	if s.claim == nil {
		return nil
	}
	return s.claim.Approach(ctx)
}

// Ready returns at the send time, when the request has to be written at once. If the send time has
// passed, it returns at a later one. It returns the errors of Approach. An action may call it again for
// the same request as long as it has written nothing of the request.
func (s *Slot) Ready(ctx context.Context) error {
	if s.claim == nil {
		return nil
	}
	return s.claim.Use(ctx)
}

// ApproachEarly is Approach with enough time left for an exchange with Redis before the
// request is sent. An action can call it for further requests of the same task: they wait for
// their send times as long as necessary.
func (s *Slot) ApproachEarly(ctx context.Context) error {
	if s.claim == nil {
		return nil
	}
	return s.claim.ApproachEarly(ctx)
}

// Leave frees the slot for another task: this one sends no further request to its target. A second call
// changes nothing.
func (s *Slot) Leave() {
	if s.claim != nil {
		s.claim.Leave()
		return
	}
	if s.queue == nil || s.left {
		return
	}
	t := s.queue.target
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.slots.leave(s) {
		t.wake()
	}
}
