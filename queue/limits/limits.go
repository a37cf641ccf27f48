// Package limits admits actions by the limits of their owners: a rate, and a number of actions in flight.
//
// For each round of a batch a limit keeps a grant: how many actions it has admitted, and how many of those have
// ended. A limit does not decide when admitted actions run; package fanout hands them out.
package limits

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
)

// Limits are the limits of all owners. They are safe for concurrent use.
type Limits struct {
	db  *rdb.DB
	log *slog.Logger
}

// New returns the limits in a Redis.
func New(db *rdb.DB, log *slog.Logger) *Limits { return &Limits{db: db, log: log} }

// windowSlices is the number of slices in which a limit counts the window of a rate. A submission may wait up to
// one slice longer than the rate requires.
const windowSlices = 300

// Admission is the part of a limit that an upload or a retry has taken; see [Limits.Refund].
type Admission struct {
	keys  []string // see [LimitKeys]
	grant string   // see [GrantName]
	slice string   // counts the actions
	n     int      // the number of actions
}

// LimitKeys returns the keys of one limit of an owner: the counts by slice, and the grants. Both are in the
// slot of the owner. Credentials of one owner may have rates with different windows. Each window has counts of its
// own, because its slices are as long as it requires, and a request with another window does not know when they end to count.
func LimitKeys(owner string, limit batch.Limit) []string {
	sum := sha256.Sum256([]byte(limit.Scope))
	prefix := "batchd:limit:{" + owner + "}:" + hex.EncodeToString(sum[:8])
	return []string{fmt.Sprintf("%s:rate:%d", prefix, limit.Rate.Per.Milliseconds()), prefix + ":flying"}
}

// Given is the answer of a limit.
type Given struct {
	Holds    int // the actions that the grant holds in all
	inFlight int // the actions in flight of all grants
	State    batch.LimitState
	wait     time.Duration // until the limit admits all of them, 0 for never, negative if not known
	Next     time.Duration // until the rate admits another action, 0 if it does now
	// Admissions are what this request took; see [Limits.Refund].
	Admissions []Admission
	address    bool // the limit is that of an address
}

// GrantName returns the name of the grant of one round of a batch: its submission, or the retry with a token.
func GrantName(id, token string) string {
	if token == "" {
		return id
	}
	return id + ":" + token
}

// batchOf returns the batch of a grant.
func batchOf(grant string) string {
	id, _, _ := strings.Cut(grant, ":")
	return id
}

// Asked is a request to a limit.
type Asked struct {
	Owner   string
	Grant   string // see [GrantName]
	N       int    // the actions that the grant shall hold in all
	Limit   batch.Limit
	Partial bool // admits as many as there is room for; otherwise all or none
	Kept    bool // keeps the grant even if the limit bounds only a rate, so that a repeated request takes only the difference
}

// admitPart asks one part of a limit. The limit knows an upper bound of the number in flight. If that bound
// leaves less than half of the limit free, admitPart first asks the batches for the real number.
func (l *Limits) admitPart(ctx context.Context, a Asked) (*Given, error) {
	got, err := l.askLimit(ctx, a, nil, 0)
	most := a.Limit.Concurrent
	if err != nil || most == 0 || (a.N > most && !a.Partial) || (got.Holds >= a.N && 2*got.State.Free >= most) {
		return got, err
	}
	atMost := 0
	if a.Kept {
		atMost = maxGrants // it asks again soon
	}
	seen, err := l.inFlight(ctx, LimitKeys(a.Owner, a.Limit)[1], atMost)
	if err != nil {
		return nil, err
	}
	more, err := l.askLimit(ctx, a, seen, got.Holds)
	if err != nil {
		return nil, err
	}
	more.Admissions = slices.Concat(got.Admissions, more.Admissions) // a new slice may have begun between the two
	return more, nil
}

// askLimit asks a limit for a grant that already holds some actions. It passes on what inFlight saw.
func (l *Limits) askLimit(ctx context.Context, a Asked, seen []any, held int) (*Given, error) {
	limit := a.Limit
	slice := max(limit.Rate.Per.Milliseconds()/windowSlices, 1)
	args := append([]any{a.Grant, a.N, flag(a.Partial), limit.Rate.N, limit.Rate.Per.Milliseconds(), slice, limit.Concurrent, flag(a.Kept)}, seen...)
	answer, err := l.db.Run(ctx, Steps.ReserveQuota, LimitKeys(a.Owner, limit), args...)
	if err != nil {
		return nil, fmt.Errorf("ask the owner's limit: %w", err)
	}
	holds := int(rdb.Atoi(answer[0]))
	var admissions []Admission
	if holds > held {
		admissions = []Admission{{LimitKeys(a.Owner, limit), a.Grant, answer[5], holds - held}}
	}
	return &Given{
		Holds: holds, inFlight: int(rdb.Atoi(answer[4])), Admissions: admissions,
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

// Refusal returns the error for n actions that were not admitted.
func (g *Given) Refusal(n int) *batch.LimitedError {
	l := g.State.Limit
	e := &batch.LimitedError{State: g.State}
	whose := ""
	if g.address {
		whose = " for your address"
	}
	switch {
	case l.Rate.N > 0 && n > l.Rate.N:
		e.Detail = fmt.Sprintf("%d actions are more than the limit of %s%s can ever admit at once: send fewer", n, l.Rate, whose)
	case l.Concurrent > 0 && n > l.Concurrent:
		e.Detail = fmt.Sprintf("%d actions are more than the %d that may be in flight%s: send fewer", n, l.Concurrent, whose)
	case g.wait < 0:
		e.RetryAfter = time.Second
		e.Detail = fmt.Sprintf("%d of %d actions are in flight%s, so there is no room for %d more", g.inFlight, l.Concurrent, whose, n)
	default:
		e.RetryAfter = max(g.wait, time.Millisecond)
		e.Detail = fmt.Sprintf("%d actions would exceed the limit of %s%s, of which %d are left just now", n, l.Rate, whose, g.State.Remaining)
	}
	return e
}

const (
	// maxGrants is the most grants with actions in flight that one request for throttled actions looks at.
	maxGrants = 100
	// maxEndedGrants is the most grants without actions in flight that one request looks at. They take no room
	// in the limit. Looking at them removes those of ended batches.
	maxEndedGrants = 10
)

// inFlight asks the batches of a limit's grants for their actions in flight. It returns the grant, the answer
// of lua/in_flight.lua and the number for each. Because it asks the batches themselves, an action makes room
// however it ended and whichever process ended it. It looks at most grants with actions in flight, chosen at
// random, or at all of them if most is zero.
func (l *Limits) inFlight(ctx context.Context, key string, most int) ([]any, error) {
	ctx, cancel := l.db.WithTimeout(ctx)
	defer cancel()
	all, err := l.db.Client.HGetAll(ctx, key).Result()
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
	grants = append(some(grants, most), some(ended, maxEndedGrants)...)
	// A grant whose node does not answer is left out. That frees too little room, which is safe.
	grants = slices.DeleteFunc(grants, func(grant string) bool { return l.db.IsAway(ctx, keys.KeysOf(batchOf(grant)).Meta) })
	pipe := l.db.Client.Pipeline()
	looks := make([]*redis.Cmd, len(grants))
	for i, grant := range grants {
		id, token, _ := strings.Cut(grant, ":")
		k := keys.KeysOf(id)
		looks[i] = pipe.EvalSha(ctx, Steps.InFlight.Hash(), []string{k.Meta, k.State, keys.MarkerKey(id, token)}, token)
	}
	l.db.Send(ctx, pipe)
	var seen []any
	for i, grant := range grants {
		found, err := l.db.AnswerOf(ctx, Steps.InFlight, looks[i]).Slice()
		if err == nil && len(found) != 2 {
			err = rdb.ErrAnswer
		}
		if err != nil {
			l.db.NoteAway(ctx, keys.KeysOf(batchOf(grant)).Meta, rdb.MapError(ctx, err))
			l.log.DebugContext(ctx, "batch of a limit's grant not looked at", "grant", grant, "error", rdb.MapError(ctx, err))
			continue
		}
		if rdb.Text(found[0]) != "reserved" {
			seen = append(seen, grant, found[0], found[1])
		}
	}
	return seen, nil
}

// some returns up to most texts chosen at random, or all if most is zero.
func some(all []string, most int) []string {
	if most == 0 || len(all) <= most {
		return all
	}
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] }) //nolint:gosec // the choice is no secret
	return all[:most]
}
