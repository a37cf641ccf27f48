package queue

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/crash"
)

// windowSlices is the number of parts that a rate's window is counted in. A submission
// may be made to wait that much of the window longer than it would have to.
const windowSlices = 300

// admission is what an upload was admitted.
type admission struct {
	keys  []string
	n     int
	slice string
}

// limitKeys are the keys of one of an owner's limits, in the owner's slot.
func limitKeys(owner, scope string) []string {
	sum := sha256.Sum256([]byte(scope))
	prefix := "batchd:limit:{" + owner + "}:" + hex.EncodeToString(sum[:8])
	return []string{prefix + ":rate", prefix + ":flying"}
}

// Admit implements [batch.Upload].
func (u *upload) Admit(ctx context.Context, n int, limit batch.Limit, partial bool) (int, batch.LimitState, error) {
	if u.replay {
		return n, batch.LimitState{Limit: limit, Remaining: limit.Rate.N}, nil
	}
	if u.markedAt.IsZero() { // while it stands, what is admitted is kept for the upload
		if err := u.mark(ctx); err != nil {
			return 0, batch.LimitState{}, err
		}
	}
	given, err := u.s.admit(ctx, u.owner, u.id, n, limit, partial)
	if err != nil {
		return 0, batch.LimitState{}, err
	}
	u.admitted = admission{keys: limitKeys(u.owner, limit.Scope), n: given.admitted, slice: given.slice}
	crash.At(crash.Admitted)
	if given.admitted < n && !partial {
		return 0, given.state, given.refusal(n)
	}
	return given.admitted, given.state, nil
}

// readmit gives back what an upload was admitted, because it comes to nothing.
func (u *upload) readmit(ctx context.Context) {
	if u.admitted.n == 0 {
		return
	}
	if _, err := u.s.run(ctx, u.s.steps.readmit, u.admitted.keys, u.id, u.admitted.n, u.admitted.slice); err != nil {
		u.s.log.WarnContext(ctx, "what a broken upload was admitted is left to run out", "batch", u.id, "error", err)
	}
}

// given is what a limit gave.
type given struct {
	admitted, flying int
	state            batch.LimitState
	wait             time.Duration
	slice            string
}

func (s *Store) admit(ctx context.Context, owner, id string, n int, limit batch.Limit, partial bool) (*given, error) {
	keys := limitKeys(owner, limit.Scope)
	part := "0"
	if partial {
		part = "1"
	}
	slice := max(limit.Rate.Per.Milliseconds()/windowSlices, 1)
	args := []any{id, n, part, limit.Rate.N, limit.Rate.Per.Milliseconds(), slice, limit.Concurrent}
	if limit.Concurrent > 0 {
		flying, err := s.lookAtFlying(ctx, keys[1])
		if err != nil {
			return nil, err
		}
		args = append(args, flying...)
	}
	answer, err := s.run(ctx, s.steps.admit, keys, args...)
	if err != nil {
		return nil, fmt.Errorf("ask the owner's limit: %w", err)
	}
	return &given{
		admitted: int(atoi(answer[0])), flying: int(atoi(answer[4])), slice: answer[5],
		state: batch.LimitState{Limit: limit, Remaining: int(atoi(answer[1])), Free: max(limit.Concurrent-int(atoi(answer[4])), 0), Reset: time.Duration(atoi(answer[2])) * time.Millisecond},
		wait:  time.Duration(atoi(answer[3])) * time.Millisecond,
	}, nil
}

// refusal says why n actions were not admitted.
func (g *given) refusal(n int) *batch.LimitedError {
	l := g.state.Limit
	e := &batch.LimitedError{State: g.state}
	switch {
	case l.Rate.N > 0 && n > l.Rate.N:
		e.Detail = fmt.Sprintf("%d actions are more than the limit of %s can ever admit at once: send fewer", n, l.Rate)
	case l.Concurrent > 0 && n > l.Concurrent:
		e.Detail = fmt.Sprintf("%d actions are more than the %d that may be in flight: send fewer", n, l.Concurrent)
	case g.wait < 0:
		e.RetryAfter = time.Second
		e.Detail = fmt.Sprintf("%d of %d actions are in flight, so there is no room for %d more", g.flying, l.Concurrent, n)
	default:
		e.RetryAfter = max(g.wait, time.Millisecond)
		e.Detail = fmt.Sprintf("%d actions would exceed the limit of %s, of which %d are left just now", n, l.Rate, g.state.Remaining)
	}
	return e
}

// lookAtFlying returns what is really in flight of the batches that a limit
// counts: batch id and number in turn. Asking the batches themselves is what
// gives back the place of an action however it ended, and whoever ended it.
func (s *Store) lookAtFlying(ctx context.Context, key string) ([]any, error) {
	ctx, cancel := s.within(ctx)
	defer cancel()
	ids, err := s.rdb.HKeys(ctx, key).Result()
	if err != nil || len(ids) == 0 {
		return nil, mapError(ctx, err)
	}
	metas, open := make([]*redis.SliceCmd, len(ids)), make([]*redis.IntCmd, len(ids))
	if _, err := s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, id := range ids {
			// In this order: an upload that commits in between shows as both, never as
			// neither, which would give back the places of a batch that has just begun.
			open[i] = p.Exists(ctx, keysOf(id).upload)
			metas[i] = p.HMGet(ctx, keysOf(id).meta, "pending", "throttle", "total", "enqueued")
		}
		return nil
	}); err != nil {
		return nil, mapError(ctx, err)
	}
	var flying []any
	for i, id := range ids {
		m := metas[i].Val()
		pending, exists := m[0].(string)
		if !exists {
			if open[i].Val() == 0 {
				flying = append(flying, id, 0)
			}
			continue
		}
		n := atoi(pending)
		if m[1] != nil { // what was not handed out yet is not in flight
			total, _ := m[2].(string)
			enqueued, _ := m[3].(string)
			n = max(n-(atoi(total)-atoi(enqueued)), 0)
		}
		flying = append(flying, id, n)
	}
	return flying, nil
}
