package fanout

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/tasks"
)

const (
	// releaseBudget roughly bounds the requests to limits plus the chunks of actions that one round hands out.
	releaseBudget = 100
	// releaseRetry is the time for which rounds leave out a limit or a batch that a round could not reach.
	releaseRetry = 5 * time.Second
)

// ReleaseThrottled implements [batch.Sweeper]. It runs one round, which reads the hashes of batches in one
// exchange. The round ends with the first later step that Redis, or one node of it, does not answer. If it ended
// before it asked the limits, the next round asks them first.
func (f *Fanout) ReleaseThrottled(ctx context.Context) (waiting int, err error) {
	t := &f.throttled
	t.mu.Lock()
	defer t.mu.Unlock()
	ids, at, err := f.throttledPage(ctx)
	if err != nil {
		return len(t.batches), err
	}
	r := &releaseRound{fanout: f, throttled: t, now: time.Now(), at: at, left: releaseBudget, metas: make(map[string]map[string]string), done: make(map[string]map[string]string)}
	unread := t.addPage(ids, r.now)
	if t.asksFirst { // the last round ended before it asked the limits
		r.askAll(ctx)
	}
	r.classifyAll(ctx, unread)
	if t.asksFirst = !t.asksFirst && r.over; !t.asksFirst {
		r.askAll(ctx)
	}
	if len(r.done) > 0 {
		unlisted, err := f.unlist(ctx, r.done, r.at)
		if err != nil {
			r.faults = append(r.faults, err)
		}
		for _, id := range unlisted {
			t.forget(id)
		}
	}
	return len(t.batches), errors.Join(r.faults...)
}

// throttledPage reads the next page of the list of throttled batches and, before that, the time of the list's
// server.
func (f *Fanout) throttledPage(ctx context.Context) ([]string, time.Time, error) {
	ctx, cancel := f.db.WithTimeout(ctx)
	defer cancel()
	from := "-"
	if f.throttled.after != "" {
		from = "(" + f.throttled.after
	}
	var pipe redis.Pipeliner
	if node := f.db.NodeOf(ctx, keys.ThrottledKey); node != nil { // TIME has no key that would choose the node
		pipe = node.Pipeline()
	} else {
		pipe = f.db.Client.Pipeline()
	}
	at, ids := pipe.Time(ctx), pipe.ZRangeByLex(ctx, keys.ThrottledKey, &redis.ZRangeBy{Min: from, Max: "+", Count: releasePage})
	f.db.Send(ctx, pipe)
	if err := errors.Join(at.Err(), ids.Err()); err != nil {
		return nil, time.Time{}, fmt.Errorf("list throttled batches: %w", rdb.MapError(ctx, err))
	}
	return ids.Val(), at.Val(), nil
}

// releaseRound is one round of [Fanout.ReleaseThrottled].
type releaseRound struct {
	fanout    *Fanout
	throttled *throttledBatches
	now       time.Time
	at        time.Time // the time of the list's server before the round read anything
	left      int       // of releaseBudget
	over      bool      // Redis, or one node of it, did not answer
	faults    []error
	metas     map[string]map[string]string // the hashes of batches that this round has read
	done      map[string]map[string]string // the hashes of batches that the round removes from the list
}

// fault records that a step failed, and ends the round if Redis did not answer.
func (r *releaseRound) fault(err error) {
	r.faults = append(r.faults, err)
	r.over = r.over || rdb.IsUnavailable(err)
}

// read reads the hashes of those batches that this round has not read yet. If a node does not answer, rounds
// leave out its batches for releaseRetry, and this round continues.
func (r *releaseRound) read(ctx context.Context, ids []string) {
	ids = slices.DeleteFunc(ids, func(id string) bool { return r.metas[id] != nil })
	if len(ids) == 0 {
		return
	}
	metas, err := r.fanout.readMetas(ctx, ids)
	if err != nil {
		r.faults = append(r.faults, err)
	}
	for _, id := range ids {
		if m, read := metas[id]; read {
			r.metas[id] = m
		} else if b := r.throttled.batches[id]; b != nil {
			r.throttled.leave(b)
			b.again = r.now.Add(releaseRetry)
		}
	}
}

// classifyAll reads and classifies batches.
func (r *releaseRound) classifyAll(ctx context.Context, ids []string) {
	r.read(ctx, slices.Clone(ids))
	for _, id := range ids {
		if m, read := r.metas[id]; read {
			r.classify(ctx, r.throttled.batches[id], m)
		}
	}
}

// classify finds the state of a batch and acts on it: a batch that waits for its limit joins the limit's queue,
// and a batch that is done leaves the list at the end of the round. It reports whether the batch was in its
// limit's queue already; a batch that joined just now waits for its turn.
func (r *releaseRound) classify(ctx context.Context, b *throttledBatch, m map[string]string) bool {
	if r.over {
		return false
	}
	b.again = r.now.Add(r.throttled.rereadDelay())
	state, err := r.fanout.releaseStateOf(ctx, b.id, m)
	if err == nil && (state == releaseGiven || state == releaseWaits) {
		err = r.fanout.completeHandOut(ctx, b.id, m)
	}
	if err != nil {
		r.throttled.leave(b)
		b.again = r.now.Add(releaseRetry)
		r.fault(releaseError(b.id, err))
		return false
	}
	switch state {
	case releaseWaits:
		queued := b.limit != nil && b.limit.name == nameOfLimit(m)
		r.throttled.join(b, m, r.now)
		return queued
	case releaseDone:
		r.done[b.id] = m
	case releaseStaged:
		b.again = r.now.Add(rereadAfter)
	case releaseGiven:
		b.again = r.now // completeHandOut has offered its actions
	}
	r.throttled.leave(b)
	return false
}

// releaseError adds the batch to an error of its release.
func releaseError(id string, err error) error {
	return fmt.Errorf("release actions of throttled batch %s: %w", id, err)
}

// askAll asks the limits that are due.
func (r *releaseRound) askAll(ctx context.Context) {
	for _, l := range r.throttled.dueLimits(r.now) {
		switch {
		case r.over || r.left <= 0:
			return
		case r.fanout.isAnyAway(ctx, l.keys):
			l.due = r.now.Add(releaseRetry)
		default:
			r.ask(ctx, l)
		}
	}
}

// ask asks a limit for each batch in its queue, until the limit has no room.
func (r *releaseRound) ask(ctx context.Context, l *throttledLimit) {
	for !r.over && r.left > 0 && r.throttled.limits[l.name] == l {
		next := make([]*throttledBatch, 0, l.ahead)
		ids := make([]string, 0, l.ahead)
		for e := l.queue.Front(); e != nil && len(next) < l.ahead; e = e.Next() {
			b := e.Value.(*throttledBatch) //nolint:errcheck,forcetypeassert // the queue has no other values
			next, ids = append(next, b), append(ids, b.id)
		}
		r.read(ctx, ids)
		for n, b := range next {
			m, read := r.metas[b.id]
			if !read || !r.classify(ctx, b, m) {
				continue
			}
			if r.over || r.left <= 0 || !r.serve(ctx, l, b, m) {
				l.ahead = max(n, 1)
				return
			}
		}
		l.ahead = min(2*l.ahead, releaseAhead)
	}
}

// serve asks a limit for a batch, and hands out the actions that the limit admits. It reports whether the limit
// may have room for another batch.
func (r *releaseRound) serve(ctx context.Context, l *throttledLimit, b *throttledBatch, m map[string]string) bool {
	r.left--
	grant, err := r.fanout.askFor(ctx, b.id, m)
	if err != nil {
		r.fault(releaseError(b.id, err))
		l.queue.MoveToBack(b.element)
		l.due = r.now.Add(releaseRetry)
		return false
	}
	full := grant.Holds < RoundSize(m)
	gives := grant.Holds > int(rdb.Atoi(m["given"]))
	l.due = r.now
	if gives {
		l.gave = r.now
		l.queue.MoveToBack(b.element)
		delete(r.metas, b.id)
		r.left -= min((grant.Holds-int(rdb.Atoi(m["given"])))/tasks.FanOutChunk, releaseChunks)
		more, err := r.fanout.handOut(ctx, b.id, m, grant.Holds, releaseChunks)
		if err != nil {
			r.fault(releaseError(b.id, err))
			return false
		}
		if !more && !full {
			r.throttled.leave(b) // no action of the batch waits for the limit any more
			b.again = r.now
		}
	}
	if !full {
		return true
	}
	if gives {
		return false
	}
	pause := r.throttled.pause(l, r.now)
	if grant.Next > 0 {
		pause = min(pause, grant.Next)
	}
	l.due = r.now.Add(pause)
	return false
}
