package queue

import (
	"context"
	"slices"
	"time"
)

// fitting returns about how many tasks have a place at the target's rate before
// the horizon, with the lock held.
func (l *line) fitting() int {
	if l.Rate.N == 0 {
		return l.Places
	}
	interval, burst := pace(l.Rate)
	return burst + int(horizon/interval)
}

// pace hands over tasks as they have their places at the target's rate, and
// gives back those that have none yet.
func (l *line) pace(tasks []*task) {
	places, err := l.t.s.reserve(context.Background(), l.Target, l.Rate, len(tasks), horizon)
	if err != nil {
		l.t.s.log.Warn("no places reserved at the target's rate", "target", l.Target, "error", err)
		places.pause = takerPause
	}
	l.mu.Lock()
	l.notBefore = time.Now().Add(min(places.pause, pollEvery)) // a hold may be called off
	l.mu.Unlock()
	if rest := tasks[places.n:]; len(rest) > 0 {
		rest[0].lane.giveBack(rest)
	}
	if tasks = tasks[:places.n]; len(tasks) > 0 {
		l.t.delays.Go(func() { l.handOver(tasks, places, time.Now()) })
	}
}

// handOver hands over tasks at their places. If the target is held meanwhile, or
// the server stops, it gives back the rest.
func (l *line) handOver(tasks []*task, at places, since time.Time) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for i, k := range tasks {
		timer.Reset(at.wait(i) - time.Since(since))
		select {
		case <-timer.C:
		case <-l.t.quit:
		}
		if !l.seatAtOnce(k) {
			k.lane.giveBack(tasks[i:])
			return
		}
	}
}

// giveBackAll puts tasks of any queues back.
func giveBackAll(tasks []*task) {
	byLane := make(map[*lane][]*task)
	for _, k := range tasks {
		byLane[k.lane] = append(byLane[k.lane], k)
	}
	for q, tasks := range byLane {
		q.giveBack(tasks)
	}
}

// giveBack puts tasks back to where they were taken from.
func (q *lane) giveBack(tasks []*task) {
	ctx, cancel := q.t.s.within(context.Background())
	defer cancel()
	ids := make([]string, len(tasks))
	for i, k := range tasks {
		ids[i] = k.id
	}
	slices.Reverse(ids) // each goes to the head
	_, err := q.t.s.requeue(ctx, q.name, ids)
	if err != nil {
		q.t.s.log.Warn("tasks not given back, they come again later", "queue", q.name, "error", err)
	}
	q.mu.Lock()
	q.count(q, -len(tasks))
	for _, k := range tasks {
		q.audit.ended(&k.place)
	}
	q.filled = true
	if err != nil {
		q.missed()
	}
	q.mu.Unlock()
	q.wake()
}
