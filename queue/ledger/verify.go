package ledger

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
)

const (
	// verifyEvery is how often a process compares actions that it has ended with Redis.
	verifyEvery = time.Second
	// maxVerifyReads is the most commands in one comparison.
	maxVerifyReads = 200
	// verifySpan is the most actions of a batch whose states one command reads.
	verifySpan = 4096
)

// verifyAfter has the ages at which a process compares the end of an action with Redis. Each process
// compares its own actions, so the time until it finds a silent loss does not depend on the number of
// open batches.
var verifyAfter = [...]time.Duration{4 * time.Second, 11 * time.Second}

// stateRange is a range of a batch's states to read, from and to included, and the ended attempts of
// this process at actions in that range.
type stateRange struct {
	id       string
	from, to int
	attempts []*attempt
}

// unverified returns the attempts that led to results and have reached the age of this pass of
// verifyAfter, without their results, as ranges of states to read. upTo is the position of the first
// attempt that it left out.
func (m *attempts) unverified(pass int, now time.Time) (reads []*stateRange, upTo uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expire(now)
	parts := make(map[actionKey]*stateRange)
	upTo = m.ended.walk(m.verified[pass], func(a *attempt) bool {
		part := actionKey{a.id, a.index / verifySpan}
		r := parts[part]
		if now.Sub(a.at) < verifyAfter[pass] || r == nil && len(parts) == maxVerifyReads {
			return false
		}
		if !a.finished() {
			return true
		}
		if r == nil {
			r = &stateRange{id: a.id, from: a.index, to: a.index}
			parts[part] = r
		}
		r.attempts, r.from, r.to = append(r.attempts, a), min(r.from, a.index), max(r.to, a.index)
		return true
	})
	return slices.SortedFunc(maps.Values(parts), func(a, b *stateRange) int {
		return cmp.Or(cmp.Compare(a.id, b.id), cmp.Compare(a.from, b.from))
	}), upTo
}

// verifiedUpTo records the position up to which the process has compared attempts in a pass.
func (m *attempts) verifiedUpTo(pass int, upTo uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.verified[pass] = upTo
}

// whole returns copies, with their results, of those attempts that are still the newest of their
// actions.
func (m *attempts) whole(heads []*attempt) (found []*attempt) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, head := range heads {
		if a := m.ended.find(head.actionKey); a != nil && a.entry.Token == head.entry.Token {
			found = append(found, a)
		}
	}
	return found
}

// verifyEnded compares actions that this process has ended with Redis, and repeats the ends that
// Redis has forgotten. It reads a bounded number of states in one exchange.
func (r *Restorer) verifyEnded(ctx context.Context, now time.Time) error {
	for pass := range verifyAfter {
		reads, upTo := r.attempts.unverified(pass, now)
		if len(reads) == 0 {
			continue
		}
		forgotten, err := r.forgottenEnds(ctx, reads)
		restored, fault := r.restore(ctx, r.attempts.whole(forgotten))
		if restored > 0 {
			r.log.WarnContext(ctx, "Redis had forgotten the ends of actions, they were repeated", "actions", restored)
		}
		if err := errors.Join(err, fault); err != nil {
			return err // the next call compares all of them again
		}
		r.attempts.verifiedUpTo(pass, upTo)
	}
	return nil
}

// forgottenEnds returns the attempts whose actions have not ended according to the ledger. With an
// error, it lacks the attempts of some batches.
func (r *Restorer) forgottenEnds(ctx context.Context, reads []*stateRange) (found []*attempt, err error) {
	ctx, cancel := r.db.WithTimeout(ctx)
	defer cancel()
	pipe := r.db.Client.Pipeline()
	cmds := make([]*redis.StringCmd, len(reads))
	for i, part := range reads {
		cmds[i] = pipe.GetRange(ctx, keys.KeysOf(part.id).State, int64(part.from), int64(part.to))
	}
	r.db.Send(ctx, pipe)
	for i, part := range reads {
		states, fault := cmds[i].Result()
		if fault != nil && r.db.Cluster != nil {
			continue // an unavailable node must not delay the batches of other nodes
		}
		if fault != nil {
			err = fmt.Errorf("compare ended actions of batch %s: %w", part.id, rdb.MapError(ctx, fault))
			continue
		}
		for _, a := range part.attempts {
			at := a.index - part.from
			if at < len(states) && (states[at:at+1] == stateRunning || states[at:at+1] == stateWaiting) {
				found = append(found, a)
			}
		}
	}
	return found, err
}
