package fanout

import (
	"cmp"
	"container/list"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/limits"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/tasks"
)

const (
	// feedPage is the number of entries of the list of throttled batches that a round reads.
	feedPage = 500
	// FeedHeads is the most batches whose hashes a round reads because it knows nothing of
	// them, or has not read them for long.
	FeedHeads = 200
	// feedAsks is about how many times a round asks limits, and hands out chunks of actions.
	feedAsks = 100
	// feedAhead is the most batches of a limit that a round reads at a time, to ask the limit for.
	feedAhead = 20
	// feedAgain is the shortest time after which a known batch is read again. With many
	// throttled batches it is longer, so that feedReads of them are read in a second.
	feedAgain = 2 * time.Second
	feedReads = 5
	// feedRetry is how long a round leaves alone a limit or a batch that cannot be reached.
	feedRetry = 5 * time.Second
	// feedPause is the longest time between two questions to a limit that has no room, unless
	// there are many such limits.
	feedPause = 5 * time.Second
	// feedLimits is how many limits without room are asked in a second at the most.
	feedLimits = 3
)

// throttledBatches remembers between rounds which batches are throttled, and by which limits. So the
// cost of a round depends on the limits that may have room, not on the number of batches that
// wait for it. Batches of a limit have their turns one after the other.
type throttledBatches struct {
	mu      sync.Mutex
	Batches map[string]*throttledBatch
	Limits  map[string]*throttledLimit
	after   string // the last id of the page that was read last, or none at the start of the list
	pass    int    // so many times the list was read to its end

	asksFirst bool // the next round asks limits before it does anything else
}

// throttledBatch is a throttled batch.
type throttledBatch struct {
	id    string
	limit *throttledLimit // nil while it is not known
	place *list.Element   // in the limit's queue
	Again time.Time       // when its hash is read again, whatever its limit does
	pass  int             // that met it last
}

// throttledLimit is a limit of an owner by which batches are throttled.
type throttledLimit struct {
	name  string
	key   string     // one of its keys in Redis, or none if it cannot be read
	queue *list.List // of *fed: the first has its turn next
	due   time.Time  // when it is asked again
	gave  time.Time  // when it gave something last, or was met
	ahead int        // so many batches are read at a time to ask it for
}

// ReleaseThrottled implements [batch.Sweeper]. It reads hashes in one exchange, and ends with the first
// step that cannot be made because Redis, or one node, does not answer: what failed comes
// last in the next round.
func (s *Fanout) ReleaseThrottled(ctx context.Context) (waiting int, err error) {
	f := &s.Throttled
	f.mu.Lock()
	defer f.mu.Unlock()
	ids, at, err := s.throttledPage(ctx)
	if err != nil {
		return len(f.Batches), err
	}
	r := &releaseRound{s: s, f: f, now: time.Now(), at: at, left: feedAsks, heads: make(map[string]map[string]string), done: make(map[string]map[string]string)}
	look := f.meet(ids, r.now)
	if f.asksFirst { // the round before did not come to it
		r.askAll(ctx)
	}
	r.look(ctx, look)
	if f.asksFirst = !f.asksFirst && r.over; !f.asksFirst {
		r.askAll(ctx)
	}
	if len(r.done) > 0 {
		if err := s.unlist(ctx, r.done, r.at); err != nil {
			r.faults = append(r.faults, err)
		} else {
			for id := range r.done {
				f.forget(id)
			}
		}
	}
	return len(f.Batches), errors.Join(r.faults...)
}

// throttledPage reads the next page of the list of throttled batches, and the time of its
// server before.
func (s *Fanout) throttledPage(ctx context.Context) ([]string, time.Time, error) {
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	from := "-"
	if s.Throttled.after != "" {
		from = "(" + s.Throttled.after
	}
	var pipe redis.Pipeliner
	if node := s.db.NodeOf(ctx, keys.ThrottledKey); node != nil { // TIME has no key that would choose a node
		pipe = node.Pipeline()
	} else {
		pipe = s.db.Client.Pipeline()
	}
	at, ids := pipe.Time(ctx), pipe.ZRangeByLex(ctx, keys.ThrottledKey, &redis.ZRangeBy{Min: from, Max: "+", Count: feedPage})
	s.db.Send(ctx, pipe)
	if err := errors.Join(at.Err(), ids.Err()); err != nil {
		return nil, time.Time{}, fmt.Errorf("list throttled batches: %w", rdb.MapError(ctx, err))
	}
	return ids.Val(), at.Val(), nil
}

// meet notes a page of the list, and returns the batches whose hashes are to be read.
func (f *throttledBatches) meet(ids []string, now time.Time) (look []string) {
	if f.Batches == nil {
		f.Batches, f.Limits = make(map[string]*throttledBatch), make(map[string]*throttledLimit)
	}
	for _, id := range ids {
		b := f.Batches[id]
		if b == nil {
			b = &throttledBatch{id: id}
			f.Batches[id] = b
		}
		b.pass = f.pass
		if !now.Before(b.Again) && len(look) < FeedHeads {
			look = append(look, id)
		}
	}
	if len(ids) == feedPage {
		f.after = ids[len(ids)-1]
		return look
	}
	f.after = ""
	for id, b := range f.Batches {
		if b.pass < f.pass { // another process took it off the list
			f.forget(id)
		}
	}
	f.pass++
	return look
}

// forget forgets a batch, and its limit after the last one.
func (f *throttledBatches) forget(id string) {
	if b := f.Batches[id]; b != nil {
		f.leave(b)
		delete(f.Batches, id)
	}
}

// leave takes a batch out of its limit's queue.
func (f *throttledBatches) leave(b *throttledBatch) {
	if b.limit == nil {
		return
	}
	b.limit.queue.Remove(b.place)
	if b.limit.queue.Len() == 0 {
		delete(f.Limits, b.limit.name)
	}
	b.limit, b.place = nil, nil
}

// join puts a batch at the end of the queue of its limit, unless it is in that queue.
func (f *throttledBatches) join(b *throttledBatch, m map[string]string, now time.Time) {
	name := nameOfLimit(m)
	if b.limit != nil && b.limit.name == name {
		return
	}
	f.leave(b)
	l := f.Limits[name]
	if l == nil {
		l = &throttledLimit{name: name, key: keyOfLimit(m), queue: list.New(), due: now, gave: now, ahead: feedAhead}
		f.Limits[name] = l
	}
	b.limit, b.place = l, l.queue.PushBack(b)
}

// nameOfLimit tells the limit by which a batch is throttled from others.
func nameOfLimit(m map[string]string) string { return m["owner"] + " " + m["throttle"] }

// keyOfLimit returns a key of the limit by which a batch is throttled, or none if that cannot
// be read.
func keyOfLimit(m map[string]string) string {
	var limit batch.Limit
	if json.Unmarshal([]byte(m["throttle"]), &limit) != nil {
		return ""
	}
	return limits.LimitKeys(m["owner"], limit.Scope)[0]
}

// dueLimits returns the limits to ask now, those first that have been due for the longest time.
func (f *throttledBatches) dueLimits(now time.Time) (due []*throttledLimit) {
	for _, l := range f.Limits {
		if !now.Before(l.due) {
			due = append(due, l)
		}
	}
	slices.SortFunc(due, func(a, b *throttledLimit) int {
		return cmp.Or(a.due.Compare(b.due), cmp.Compare(a.name, b.name))
	})
	return due
}

// readAgain is how long a batch that is known is not read, unless it has its turn.
func (f *throttledBatches) readAgain() time.Duration {
	return max(feedAgain, time.Duration(len(f.Batches))*time.Second/feedReads)
}

// pause is how long a limit is not asked again that had no room. The time grows with that for
// which it has not given anything, so the delay is an eighth of the wait at most.
func (f *throttledBatches) pause(l *throttledLimit, now time.Time) time.Duration {
	return min(now.Sub(l.gave)/8, f.longestPause())
}

// longestPause is the longest time between two questions to a limit that has no room.
func (f *throttledBatches) longestPause() time.Duration {
	return max(feedPause, time.Duration(len(f.Limits))*time.Second/feedLimits)
}

// releaseRound is a round of the feeder.
type releaseRound struct {
	s      *Fanout
	f      *throttledBatches
	now    time.Time
	at     time.Time // by the clock of the list's server, before anything was read
	left   int       // of feedAsks
	over   bool      // Redis, or one node, did not answer
	faults []error
	heads  map[string]map[string]string // as they were read in this round
	done   map[string]map[string]string // batches to take off the list
}

// fault notes that a step failed, and ends the round if Redis did not answer.
func (r *releaseRound) fault(err error) {
	r.faults = append(r.faults, err)
	r.over = r.over || rdb.IsUnavailable(err)
}

// read reads the hashes of batches that were not read yet in this round. What is on a node
// that does not answer is left alone for a while, and ends nothing.
func (r *releaseRound) read(ctx context.Context, ids []string) {
	ids = slices.DeleteFunc(ids, func(id string) bool { return r.heads[id] != nil })
	if len(ids) == 0 {
		return
	}
	heads, err := r.s.readHeads(ctx, ids)
	if err != nil {
		r.faults = append(r.faults, err)
	}
	for _, id := range ids {
		if m, read := heads[id]; read {
			r.heads[id] = m
		} else if b := r.f.Batches[id]; b != nil {
			r.f.leave(b)
			b.Again = r.now.Add(feedRetry)
		}
	}
}

// look finds out what there is to be done with batches, and puts those that wait for a limit
// into its queue.
func (r *releaseRound) look(ctx context.Context, ids []string) {
	r.read(ctx, slices.Clone(ids))
	for _, id := range ids {
		if m, read := r.heads[id]; read {
			r.place(ctx, r.f.Batches[id], m)
		}
	}
}

// place finds out what there is to be done with a batch, and reports whether the round asks its limit.
func (r *releaseRound) place(ctx context.Context, b *throttledBatch, m map[string]string) bool {
	if r.over {
		return false
	}
	b.Again = r.now.Add(r.f.readAgain())
	state, err := r.s.releasable(ctx, b.id, m)
	if err == nil && (state == releaseGiven || state == releaseWaits) {
		err = r.s.completeHandOut(ctx, b.id, m)
	}
	if err != nil {
		r.f.leave(b)
		b.Again = r.now.Add(feedRetry)
		r.fault(fmt.Errorf("feed batch %s: %w", b.id, err))
		return false
	}
	switch state {
	case releaseWaits:
		there := b.limit != nil && b.limit.name == nameOfLimit(m)
		r.f.join(b, m, r.now)
		return there
	case releaseDone:
		r.done[b.id] = m
	case releaseStaged:
		b.Again = r.now.Add(feedAgain)
	case releaseGiven:
		b.Again = r.now // its tasks exist now
	}
	r.f.leave(b)
	return false
}

// askAll asks the limits that are due.
func (r *releaseRound) askAll(ctx context.Context) {
	for _, l := range r.f.dueLimits(r.now) {
		switch {
		case r.over || r.left <= 0:
			return
		case r.s.db.IsAway(ctx, l.key):
			l.due = r.now.Add(feedRetry)
		default:
			r.ask(ctx, l)
		}
	}
}

// ask asks a limit for its batches, one after the other, until it has no room.
func (r *releaseRound) ask(ctx context.Context, l *throttledLimit) {
	for !r.over && r.left > 0 && r.f.Limits[l.name] == l {
		turn := make([]*throttledBatch, 0, l.ahead)
		ids := make([]string, 0, l.ahead)
		for e := l.queue.Front(); e != nil && len(turn) < l.ahead; e = e.Next() {
			b := e.Value.(*throttledBatch) //nolint:errcheck,forcetypeassert // the queue has no other values
			turn, ids = append(turn, b), append(ids, b.id)
		}
		r.read(ctx, ids)
		for n, b := range turn {
			m, read := r.heads[b.id]
			if !read || !r.place(ctx, b, m) {
				continue
			}
			if r.over || r.left <= 0 || !r.serve(ctx, l, b, m) {
				l.ahead = max(n, 1)
				return
			}
		}
		l.ahead = min(2*l.ahead, feedAhead)
	}
}

// serve asks a limit for a batch and hands out what it gives. It reports whether there may be
// room for another batch.
func (r *releaseRound) serve(ctx context.Context, l *throttledLimit, b *throttledBatch, m map[string]string) bool {
	r.left--
	grant, err := r.s.askFor(ctx, b.id, m)
	if err != nil {
		r.s.db.NoteAway(ctx, l.key, err)
		r.fault(fmt.Errorf("feed batch %s: %w", b.id, err))
		l.queue.MoveToBack(b.place)
		l.due = r.now.Add(feedRetry)
		return false
	}
	full := grant.Holds < RoundSize(m)
	gives := grant.Holds > int(rdb.Atoi(m["given"]))
	l.due = r.now
	if gives {
		l.gave = r.now
		l.queue.MoveToBack(b.place)
		delete(r.heads, b.id)
		r.left -= min((grant.Holds-int(rdb.Atoi(m["given"])))/tasks.FanOutChunk, releaseChunks)
		more, err := r.s.handOut(ctx, b.id, m, grant.Holds, releaseChunks)
		if err != nil {
			r.fault(fmt.Errorf("feed batch %s: %w", b.id, err))
			return false
		}
		if !more && !full {
			r.f.leave(b) // nothing of it waits for the limit any more
			b.Again = r.now
		}
	}
	if !full {
		return true
	}
	if gives {
		return false
	}
	pause := r.f.pause(l, r.now)
	if grant.Next > 0 {
		pause = min(pause, grant.Next)
	}
	l.due = r.now.Add(pause)
	return false
}
