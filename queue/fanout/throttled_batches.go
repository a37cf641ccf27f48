package fanout

import (
	"cmp"
	"container/list"
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/limits"
)

const (
	// releasePage is the number of entries that a round reads from the list of throttled batches.
	releasePage = 500
	// releaseReads is the most batches whose hashes a round reads because the process does not know their limits,
	// or has not read them for long.
	releaseReads = 200
	// releaseAhead is the most batches of one limit that a round reads at a time before it asks the limit.
	releaseAhead = 20
	// rereadAfter is the shortest time after which a round reads a known batch again. With many throttled batches
	// the time is longer, so that rounds read rereadsPerSecond of them again in a second.
	rereadAfter      = 2 * time.Second
	rereadsPerSecond = 5
	// longestPause is the longest time between two requests to a limit without room. With many such limits the
	// time is longer, so that rounds ask at most asksPerSecond of them in a second.
	longestPause  = 5 * time.Second
	asksPerSecond = 3
)

// throttledBatches remembers between rounds which batches are throttled, and by which limits. So the cost of a
// round grows with the limits that may have room, and not with the batches that wait for limits. Each limit has a
// queue of its batches, and a round serves them in that order.
type throttledBatches struct {
	mu      sync.Mutex
	batches map[string]*throttledBatch
	limits  map[string]*throttledLimit
	after   string // the last id of the page that was read last, or "" at the start of the list
	pass    int    // the number of times that rounds have read the list to its end

	asksFirst bool // the next round asks limits before it does anything else
}

// throttledBatch is a throttled batch.
type throttledBatch struct {
	id      string
	limit   *throttledLimit // nil while the limit is not known
	element *list.Element   // of the batch in the queue of its limit
	again   time.Time       // when a round reads the hash again, even if the limit has no room
	pass    int             // the last pass in which the list had the batch
}

// throttledLimit is a limit of an owner that throttles batches.
type throttledLimit struct {
	name  string
	keys  []string   // see [limits.PlacesOf]; empty if the limit cannot be decoded
	queue *list.List // of *throttledBatch: a round serves the first one first
	due   time.Time  // when a round asks the limit again
	gave  time.Time  // when the limit last admitted an action, or when the process first saw the limit
	ahead int        // the number of batches that a round reads at a time before it asks the limit
}

// addPage adds a page of the list, and returns the batches whose hashes the round must read.
func (t *throttledBatches) addPage(ids []string, now time.Time) (unread []string) {
	if t.batches == nil {
		t.batches, t.limits = make(map[string]*throttledBatch), make(map[string]*throttledLimit)
	}
	for _, id := range ids {
		b := t.batches[id]
		if b == nil {
			b = &throttledBatch{id: id}
			t.batches[id] = b
		}
		b.pass = t.pass
		if !now.Before(b.again) && len(unread) < releaseReads {
			unread = append(unread, id)
		}
	}
	if len(ids) == releasePage {
		t.after = ids[len(ids)-1]
		return unread
	}
	t.after = ""
	for id, b := range t.batches {
		if b.pass < t.pass { // another process removed the batch from the list
			t.forget(id)
		}
	}
	t.pass++
	return unread
}

// forget removes a batch. With its last batch, a limit is removed as well.
func (t *throttledBatches) forget(id string) {
	if b := t.batches[id]; b != nil {
		t.leave(b)
		delete(t.batches, id)
	}
}

// leave removes a batch from the queue of its limit.
func (t *throttledBatches) leave(b *throttledBatch) {
	if b.limit == nil {
		return
	}
	b.limit.queue.Remove(b.element)
	if b.limit.queue.Len() == 0 {
		delete(t.limits, b.limit.name)
	}
	b.limit, b.element = nil, nil
}

// join appends a batch to the queue of its limit, unless that queue has the batch already.
func (t *throttledBatches) join(b *throttledBatch, m map[string]string, now time.Time) {
	name := nameOfLimit(m)
	if b.limit != nil && b.limit.name == name {
		return
	}
	t.leave(b)
	l := t.limits[name]
	if l == nil {
		l = &throttledLimit{name: name, keys: keysOfLimit(m), queue: list.New(), due: now, gave: now, ahead: releaseAhead}
		t.limits[name] = l
	}
	b.limit, b.element = l, l.queue.PushBack(b)
}

// nameOfLimit returns a unique name of the limit that throttles a batch.
func nameOfLimit(m map[string]string) string { return m["owner"] + " " + m["throttle"] }

// keysOfLimit returns the places of the limit that throttles a batch, or none if the limit cannot be decoded.
func keysOfLimit(m map[string]string) []string {
	var limit batch.Limit
	if json.Unmarshal([]byte(m["throttle"]), &limit) != nil {
		return nil
	}
	return limits.PlacesOf(m["owner"], limit)
}

// isAnyAway reports whether the node of one of the keys did not answer lately.
func (f *Fanout) isAnyAway(ctx context.Context, keys []string) bool {
	return slices.ContainsFunc(keys, func(key string) bool { return f.db.IsAway(ctx, key) })
}

// dueLimits returns the limits that a round asks now. The limit that has been due for the longest time is first.
func (t *throttledBatches) dueLimits(now time.Time) (due []*throttledLimit) {
	for _, l := range t.limits {
		if !now.Before(l.due) {
			due = append(due, l)
		}
	}
	slices.SortFunc(due, func(a, b *throttledLimit) int {
		return cmp.Or(a.due.Compare(b.due), cmp.Compare(a.name, b.name))
	})
	return due
}

// rereadDelay returns the time after which a round reads a known batch again. A round that asks the limit for the
// batch reads it earlier.
func (t *throttledBatches) rereadDelay() time.Duration {
	return max(rereadAfter, time.Duration(len(t.batches))*time.Second/rereadsPerSecond)
}

// pause returns the time for which rounds do not ask a limit that had no room. It is an eighth of the time since
// the limit last admitted an action, so it delays an action by at most an eighth of its wait.
func (t *throttledBatches) pause(l *throttledLimit, now time.Time) time.Duration {
	return min(now.Sub(l.gave)/8, t.maxPause())
}

// maxPause returns the longest time between two requests to a limit without room.
func (t *throttledBatches) maxPause() time.Duration {
	return max(longestPause, time.Duration(len(t.limits))*time.Second/asksPerSecond)
}
