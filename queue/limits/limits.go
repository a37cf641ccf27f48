package limits

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
)

// WindowSlices is the number of parts that a rate's window is counted in. A submission
// may be made to wait that much of the window longer than it would have to.
const WindowSlices = 300

// Admission is what an upload or a retry was admitted.
type Admission struct {
	Keys  []string
	Taken []any // number of actions and the slice of the window that counts them, in turn
}

// LimitKeys are the keys of one of an owner's limits, in the owner's slot.
func LimitKeys(owner, scope string) []string {
	sum := sha256.Sum256([]byte(scope))
	prefix := "batchd:limit:{" + owner + "}:" + hex.EncodeToString(sum[:8])
	return []string{prefix + ":rate", prefix + ":flying"}
}

// Given is what a limit gave.
type Given struct {
	Holds  int // so many actions the grant holds in all
	flying int
	State  batch.LimitState
	wait   time.Duration
	Next   time.Duration // until the rate admits another action, 0 if it does now
	Taken  []any         // see admission
}

// GrantName names the grant of one round of a batch: that of its submission, or of the retry
// with that token.
func GrantName(id, token string) string {
	if token == "" {
		return id
	}
	return id + ":" + token
}

// batchOf returns the batch that a grant was made for.
func batchOf(grant string) string {
	id, _, _ := strings.Cut(grant, ":")
	return id
}

// Asked is what a limit is asked for.
type Asked struct {
	Owner   string
	Grant   string // see grantName
	N       int    // so many actions it is to hold in all
	Limit   batch.Limit
	Partial bool // as many as there is room for, else all or none
	Kept    bool // asking again for the same grant goes on from what it holds, whatever the limit bounds
}

// Admit asks a limit. What is in flight is known to be at most so much; only if that leaves less
// than half of the limit, the batches are asked how much it really is.
func (s *Limits) Admit(ctx context.Context, a Asked) (*Given, error) {
	got, err := s.askLimit(ctx, a, nil, 0)
	most := a.Limit.Concurrent
	if err != nil || most == 0 || (a.N > most && !a.Partial) || (got.Holds >= a.N && 2*got.State.Free >= most) {
		return got, err
	}
	looks := 0
	if a.Kept && a.Partial {
		looks = FeedLooks // it asks again soon
	}
	seen, err := s.LookAtFlying(ctx, LimitKeys(a.Owner, a.Limit.Scope)[1], looks)
	if err != nil {
		return nil, err
	}
	more, err := s.askLimit(ctx, a, seen, got.Holds)
	if err != nil {
		return nil, err
	}
	more.Taken = slices.Concat(got.Taken, more.Taken) // another slice may have begun in between
	return more, nil
}

// askLimit asks a limit for a grant that holds so many actions already.
func (s *Limits) askLimit(ctx context.Context, a Asked, seen []any, held int) (*Given, error) {
	limit := a.Limit
	slice := max(limit.Rate.Per.Milliseconds()/WindowSlices, 1)
	args := append([]any{a.Grant, a.N, flag(a.Partial), limit.Rate.N, limit.Rate.Per.Milliseconds(), slice, limit.Concurrent, flag(a.Kept)}, seen...)
	answer, err := s.db.Run(ctx, Steps.ReserveQuota, LimitKeys(a.Owner, limit.Scope), args...)
	if err != nil {
		return nil, fmt.Errorf("ask the owner's limit: %w", err)
	}
	holds := int(rdb.Atoi(answer[0]))
	var taken []any
	if holds > held {
		taken = []any{holds - held, answer[5]}
	}
	return &Given{
		Holds: holds, flying: int(rdb.Atoi(answer[4])), Taken: taken,
		State: batch.LimitState{Limit: limit, Remaining: int(rdb.Atoi(answer[1])), Free: max(limit.Concurrent-int(rdb.Atoi(answer[4])), 0), Reset: time.Duration(rdb.Atoi(answer[2])) * time.Millisecond},
		wait:  time.Duration(rdb.Atoi(answer[3])) * time.Millisecond,
		Next:  time.Duration(rdb.Atoi(answer[6])) * time.Millisecond,
	}, nil
}

func flag(set bool) string {
	if set {
		return "1"
	}
	return "0"
}

// Refusal says why n actions were not admitted.
func (g *Given) Refusal(n int) *batch.LimitedError {
	l := g.State.Limit
	e := &batch.LimitedError{State: g.State}
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
		e.Detail = fmt.Sprintf("%d actions would exceed the limit of %s, of which %d are left just now", n, l.Rate, g.State.Remaining)
	}
	return e
}

const (
	// FeedLooks is the most grants that one question of the feeder to a limit looks at.
	FeedLooks = 100
	// endedLooks is the most grants of which all that was given has ended that one question to a
	// limit looks at. They take no room, and are looked at so that those of ended batches go.
	endedLooks = 10
)

// LookAtFlying asks the batches of a limit's grants what is in flight: grant, what was found, and
// number in turn. Asking the batches themselves is what gives back the place of an action however
// it ended, and whichever process ended it. It looks at that many grants of which something is in
// flight, chosen by chance, or at all if that is zero.
func (s *Limits) LookAtFlying(ctx context.Context, key string, most int) ([]any, error) {
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	all, err := s.db.Client.HGetAll(ctx, key).Result()
	if err != nil || len(all) == 0 {
		return nil, rdb.MapError(ctx, err)
	}
	var grants, ended []string
	for grant, packed := range all {
		if given, over, _ := strings.Cut(packed, "|"); rdb.Atoi(given) > rdb.Atoi(over) {
			grants = append(grants, grant)
		} else {
			ended = append(ended, grant)
		}
	}
	grants = append(some(grants, most), some(ended, endedLooks)...)
	// What is left out because its node is away frees too little, which is safe.
	grants = slices.DeleteFunc(grants, func(grant string) bool { return s.db.IsAway(ctx, keys.KeysOf(batchOf(grant)).Meta) })
	pipe := s.db.Client.Pipeline()
	looks := make([]*redis.Cmd, len(grants))
	for i, grant := range grants {
		id, token, _ := strings.Cut(grant, ":")
		k := keys.KeysOf(id)
		looks[i] = pipe.EvalSha(ctx, Steps.InFlight.Hash(), []string{k.Meta, k.State, keys.MarkerKey(id, token)}, token)
	}
	s.db.Send(ctx, pipe)
	var seen []any
	for i, grant := range grants {
		found, err := s.db.AnswerOf(ctx, Steps.InFlight, looks[i]).Slice()
		if err == nil && len(found) != 2 {
			err = rdb.ErrAnswer
		}
		if err != nil {
			s.db.NoteAway(ctx, keys.KeysOf(batchOf(grant)).Meta, rdb.MapError(ctx, err))
			s.log.DebugContext(ctx, "batch of a limit's grant not looked at", "grant", grant, "error", rdb.MapError(ctx, err))
			continue
		}
		if rdb.Text(found[0]) != "reserved" {
			seen = append(seen, grant, found[0], found[1])
		}
	}
	return seen, nil
}

// some returns at most so many of some texts, chosen by chance, or all if that is zero.
func some(all []string, most int) []string {
	if most == 0 || len(all) <= most {
		return all
	}
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] }) //nolint:gosec // chance is no secret
	return all[:most]
}

// ForgetGrant removes a grant that bounds only a rate. Those that bound what is in flight
// are removed by whoever looks at them next.
func (s *Limits) ForgetGrant(ctx context.Context, owner, id, throttle, token string) error {
	var limit batch.Limit
	if owner == "" || json.Unmarshal([]byte(throttle), &limit) != nil || limit.Concurrent > 0 {
		return nil
	}
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	return rdb.MapError(ctx, s.db.Client.HDel(ctx, LimitKeys(owner, limit.Scope)[1], GrantName(id, token)).Err())
}
