package queue

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/crash"
	"github.com/batchd/batchd/queue/rdb"
)

// windowSlices is the number of parts that a rate's window is counted in. A submission
// may be made to wait that much of the window longer than it would have to.
const windowSlices = 300

// admission is what an upload or a retry was admitted.
type admission struct {
	keys  []string
	taken []any // number of actions and the slice of the window that counts them, in turn
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
	given, err := u.s.admit(ctx, asked{owner: u.owner, grant: grantName(u.id, ""), n: n, limit: limit, partial: partial})
	if err != nil {
		return 0, batch.LimitState{}, err
	}
	u.admitted = admission{keys: limitKeys(u.owner, limit.Scope), taken: given.taken}
	crash.At(crash.Admitted)
	if given.holds < n && !partial {
		return 0, given.state, given.refusal(n)
	}
	return given.holds, given.state, nil
}

// readmit gives back what an upload was admitted, because it comes to nothing.
func (u *upload) readmit(ctx context.Context) {
	if len(u.admitted.taken) == 0 {
		return
	}
	if _, err := u.s.db.Run(ctx, u.s.steps.readmit, u.admitted.keys, append([]any{grantName(u.id, "")}, u.admitted.taken...)...); err != nil {
		u.s.log.WarnContext(ctx, "what a broken upload was admitted is left to run out", "batch", u.id, "error", err)
	}
}

// given is what a limit gave.
type given struct {
	holds  int // so many actions the grant holds in all
	flying int
	state  batch.LimitState
	wait   time.Duration
	next   time.Duration // until the rate admits another action, 0 if it does now
	taken  []any         // see admission
}

// grantName names the grant of one round of a batch: that of its submission, or of the retry
// with that token.
func grantName(id, token string) string {
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

// asked is what a limit is asked for.
type asked struct {
	owner   string
	grant   string // see grantName
	n       int    // so many actions it is to hold in all
	limit   batch.Limit
	partial bool // as many as there is room for, else all or none
	kept    bool // asking again for the same grant goes on from what it holds, whatever the limit bounds
}

// admit asks a limit. What is in flight is known to be at most so much; only if that leaves less
// than half of the limit, the batches are asked how much it really is.
func (s *Store) admit(ctx context.Context, a asked) (*given, error) {
	got, err := s.askLimit(ctx, a, nil, 0)
	most := a.limit.Concurrent
	if err != nil || most == 0 || (a.n > most && !a.partial) || (got.holds >= a.n && 2*got.state.Free >= most) {
		return got, err
	}
	looks := 0
	if a.kept && a.partial {
		looks = feedLooks // it asks again soon
	}
	seen, err := s.lookAtFlying(ctx, limitKeys(a.owner, a.limit.Scope)[1], looks)
	if err != nil {
		return nil, err
	}
	more, err := s.askLimit(ctx, a, seen, got.holds)
	if err != nil {
		return nil, err
	}
	more.taken = slices.Concat(got.taken, more.taken) // another slice may have begun in between
	return more, nil
}

// askLimit asks a limit for a grant that holds so many actions already.
func (s *Store) askLimit(ctx context.Context, a asked, seen []any, held int) (*given, error) {
	limit := a.limit
	slice := max(limit.Rate.Per.Milliseconds()/windowSlices, 1)
	args := append([]any{a.grant, a.n, flag(a.partial), limit.Rate.N, limit.Rate.Per.Milliseconds(), slice, limit.Concurrent, flag(a.kept)}, seen...)
	answer, err := s.db.Run(ctx, s.steps.admit, limitKeys(a.owner, limit.Scope), args...)
	if err != nil {
		return nil, fmt.Errorf("ask the owner's limit: %w", err)
	}
	holds := int(rdb.Atoi(answer[0]))
	var taken []any
	if holds > held {
		taken = []any{holds - held, answer[5]}
	}
	return &given{
		holds: holds, flying: int(rdb.Atoi(answer[4])), taken: taken,
		state: batch.LimitState{Limit: limit, Remaining: int(rdb.Atoi(answer[1])), Free: max(limit.Concurrent-int(rdb.Atoi(answer[4])), 0), Reset: time.Duration(rdb.Atoi(answer[2])) * time.Millisecond},
		wait:  time.Duration(rdb.Atoi(answer[3])) * time.Millisecond,
		next:  time.Duration(rdb.Atoi(answer[6])) * time.Millisecond,
	}, nil
}

func flag(set bool) string {
	if set {
		return "1"
	}
	return "0"
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

const (
	// feedLooks is the most grants that one question of the feeder to a limit looks at.
	feedLooks = 100
	// endedLooks is the most grants of which all that was given has ended that one question to a
	// limit looks at. They take no room, and are looked at so that those of ended batches go.
	endedLooks = 10
)

// lookAtFlying asks the batches of a limit's grants what is in flight: grant, what was found, and
// number in turn. Asking the batches themselves is what gives back the place of an action however
// it ended, and whichever process ended it. It looks at that many grants of which something is in
// flight, chosen by chance, or at all if that is zero.
func (s *Store) lookAtFlying(ctx context.Context, key string, most int) ([]any, error) {
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
	grants = slices.DeleteFunc(grants, func(grant string) bool { return s.db.IsAway(ctx, keysOf(batchOf(grant)).meta) })
	pipe := s.db.Client.Pipeline()
	looks := make([]*redis.Cmd, len(grants))
	for i, grant := range grants {
		id, token, _ := strings.Cut(grant, ":")
		k := keysOf(id)
		looks[i] = pipe.EvalSha(ctx, s.steps.flying.Hash(), []string{k.meta, k.state, markerKey(id, token)}, token)
	}
	s.db.Send(ctx, pipe)
	var seen []any
	for i, grant := range grants {
		found, err := s.db.AnswerOf(ctx, s.steps.flying, looks[i]).Slice()
		if err == nil && len(found) != 2 {
			err = rdb.ErrAnswer
		}
		if err != nil {
			s.db.NoteAway(ctx, keysOf(batchOf(grant)).meta, rdb.MapError(ctx, err))
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
