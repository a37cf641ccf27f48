package limits

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/rdb"
)

// part is one of the limits that a [batch.Limit] describes: that of the owner, or that of the client's address, which
// counts like another owner.
type part struct {
	owner   string
	limit   batch.Limit
	address bool
}

// partsOf returns the limit of the owner and, if there is one, that of the address.
func partsOf(owner string, limit batch.Limit) []part {
	address := limit.Address
	limit.Address = nil
	parts := []part{{owner: owner, limit: limit}}
	if address != nil {
		limit.Rate, limit.Concurrent = address.Rate, address.Concurrent
		parts = append(parts, part{address.Name, limit, true})
	}
	return parts
}

// PlacesOf returns a key of each part of a limit: one for each node that [Limits.Admit] asks.
func PlacesOf(owner string, limit batch.Limit) (places []string) {
	for _, p := range partsOf(owner, limit) {
		places = append(places, LimitKeys(p.owner, p.limit)[0])
	}
	return places
}

// Admit asks a limit for actions: the part of the address, if there is one, and that of the owner. So clients
// with invented credentials do not reach the limits of owners. What the address admits and the owner does not, Admit
// gives back. A kept grant is not given back, because its batch needs it later. So Admit asks the owner first then: a
// batch that waits for its owner takes nothing from others at the address.
func (l *Limits) Admit(ctx context.Context, a Asked) (*Given, error) {
	parts := partsOf(a.Owner, a.Limit)
	if !a.Kept {
		slices.Reverse(parts)
	}
	var before *Given
	for _, p := range parts {
		a.Owner, a.Limit = p.owner, p.limit
		given, err := l.admitPart(ctx, a)
		if err != nil {
			if a.Kept { // only for throttled batches, which leave out nodes that do not answer
				l.db.NoteAway(ctx, LimitKeys(p.owner, p.limit)[0], err)
			} else if before != nil {
				l.giveBack(ctx, before.Admissions, before.Holds)
			}
			return nil, err
		}
		given.address = p.address
		if before != nil {
			if !a.Kept {
				before.Admissions = l.giveBack(ctx, before.Admissions, before.Holds-given.Holds)
			}
			given.join(before)
		}
		if given.Holds == 0 {
			return given, nil
		}
		before, a.N = given, given.Holds
	}
	return before, nil
}

// join adds what another part of the limit gave to the answer of the last one.
func (g *Given) join(before *Given) {
	g.Admissions = append(g.Admissions, before.Admissions...)
	g.Next = max(g.Next, before.Next)
	if now, was := &g.State, &before.State; g.Holds > 0 { // a refusal is that of one part
		if was.Remaining < now.Remaining {
			now.Limit.Rate, now.Remaining, now.Reset = was.Limit.Rate, was.Remaining, was.Reset
		}
		if was.Free < now.Free {
			now.Limit.Concurrent, now.Free = was.Limit.Concurrent, was.Free
		}
	}
}

// giveBack gives n actions of admissions back, and returns the rest. If Redis does not answer, they count until they
// leave the window, and until their grant is looked at.
func (l *Limits) giveBack(ctx context.Context, admissions []Admission, n int) (kept []Admission) {
	ctx = context.WithoutCancel(ctx)
	for _, a := range admissions {
		surplus := a
		surplus.n = min(a.n, n)
		if err := l.Refund(ctx, surplus); err != nil {
			l.log.WarnContext(ctx, "admission not given back", "grant", a.grant, "error", err)
		}
		n -= surplus.n
		if a.n -= surplus.n; a.n > 0 {
			kept = append(kept, a)
		}
	}
	return kept
}

// Refund gives admissions back whose actions will not run.
func (l *Limits) Refund(ctx context.Context, all ...Admission) error {
	var faults []error
	for _, a := range all {
		if a.n == 0 {
			continue
		}
		if _, err := l.db.Run(ctx, Steps.Refund, append(slices.Clone(a.keys), a.keys[0]+":refund:"+l.db.Token()), a.grant, a.slice, a.n); err != nil {
			faults = append(faults, fmt.Errorf("refund an admission: %w", err))
		}
	}
	return errors.Join(faults...)
}

// ForgetGrant removes the grant of a batch from the parts of its limit that bound only a rate. Grants that bound the
// number in flight are removed by a later [Limits.Admit].
func (l *Limits) ForgetGrant(ctx context.Context, owner, id, throttle, token string) error {
	var limit batch.Limit
	if owner == "" || json.Unmarshal([]byte(throttle), &limit) != nil {
		return nil
	}
	ctx, cancel := l.db.WithTimeout(ctx)
	defer cancel()
	var faults []error
	for _, p := range partsOf(owner, limit) {
		if p.limit.Concurrent > 0 {
			continue
		}
		key := LimitKeys(p.owner, p.limit)[1]
		err := rdb.MapError(ctx, l.db.Client.HDel(ctx, key, GrantName(id, token)).Err())
		l.db.NoteAway(ctx, key, err)
		faults = append(faults, err)
	}
	return errors.Join(faults...)
}
