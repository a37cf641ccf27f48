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
	// verifyReads is the most commands of one comparison.
	maxVerifyReads = 200
	// verifySpan is the most actions of a batch whose states one command reads.
	verifySpan = 4096
)

// VerifyAfter are the ages at which the end of an action is compared with Redis, by this
// process alone: so the time until a silent loss is found does not depend on how many batches
// are open.
var verifyAfter = [...]time.Duration{4 * time.Second, 11 * time.Second}

// statesRead is a part of a batch's states, and what this process did with some of its actions.
type stateRange struct {
	id       string
	from, to int
	attempts []*attempt
}

// Unverified returns attempts that led to results and have an age at which they are compared,
// without the results, as parts of states to read, and up to where these are all.
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

// VerifiedUpTo notes up to where attempts were compared.
func (m *attempts) verifiedUpTo(pass int, upTo uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.verified[pass] = upTo
}

// whole returns copies, with their results, of those attempts that still are the newest ones.
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

// VerifyEnded compares actions that this process has ended with Redis, and repeats what that
// has forgotten. It reads a bounded number of states in one exchange.
func (s *Restorer) verifyEnded(ctx context.Context, now time.Time) error {
	for pass := range verifyAfter {
		reads, upTo := s.attempts.unverified(pass, now)
		if len(reads) == 0 {
			continue
		}
		forgotten, err := s.forgottenEnds(ctx, reads)
		restored, fault := s.restore(ctx, s.attempts.whole(forgotten))
		if restored > 0 {
			s.log.WarnContext(ctx, "Redis had forgotten the ends of actions, they were repeated", "actions", restored)
		}
		if err := errors.Join(err, fault); err != nil {
			return err // all of them are compared again
		}
		s.attempts.verifiedUpTo(pass, upTo)
	}
	return nil
}

// forgottenEnds returns the attempts whose actions are not ended by the ledger.
func (s *Restorer) forgottenEnds(ctx context.Context, reads []*stateRange) (found []*attempt, err error) {
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	pipe := s.db.Client.Pipeline()
	cmds := make([]*redis.StringCmd, len(reads))
	for i, r := range reads {
		cmds[i] = pipe.GetRange(ctx, keys.KeysOf(r.id).State, int64(r.from), int64(r.to))
	}
	s.db.Send(ctx, pipe)
	for i, r := range reads {
		states, fault := cmds[i].Result()
		if fault != nil && s.db.Cluster != nil {
			continue // its node may be away, and is to keep no other batch from its turn
		}
		if fault != nil {
			err = fmt.Errorf("compare what was done with batch %s: %w", r.id, rdb.MapError(ctx, fault))
			continue
		}
		for _, a := range r.attempts {
			at := a.index - r.from
			if at < len(states) && (states[at:at+1] == stateRunning || states[at:at+1] == stateWaiting) {
				found = append(found, a)
			}
		}
	}
	return found, err
}
