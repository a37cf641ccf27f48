package batches

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/seal"
)

// What changes while a batch runs is not authenticated: its status, counts, times and rounds, and the states of its
// actions. The checks of this file find values that no step leaves behind, so that a reader gets an error that names
// the batch, and no answer that contradicts itself or a sealed result.

const (
	// maxMillis bounds times: later ones have no form in JSON.
	maxMillis = 253402300800000
	// maxRounds bounds the rounds of a batch.
	maxRounds = 1_000_000
)

// shape is what decides about the stored values that actions may have.
type shape struct {
	total           int
	groups, retried bool
}

func shapeOf(m map[string]string) shape {
	total, _ := number(m["total"])
	return shape{total: int(total), groups: m["groups"] != "", retried: m["round"] != ""}
}

// number reads a number that is not negative, as the steps write numbers.
func number(s string) (int64, bool) {
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil && n >= 0 && s[0] != '+'
}

func within(s string, least, most int64) bool {
	n, ok := number(s)
	return ok && n >= least && n <= most
}

// contradiction returns the error of a batch whose stored values contradict each other.
func contradiction(id, format string, args ...any) error {
	return &batch.DamagedError{ID: id, Err: fmt.Errorf("read batch %s: %w: %s", id, seal.ErrChanged, fmt.Sprintf(format, args...))}
}

// readError returns the error of an exchange that reads a batch.
func readError(ctx context.Context, id string, err error) error {
	if rdb.IsWrongType(err) {
		return contradiction(id, "a key of it has another type: %v", err)
	}
	return fmt.Errorf("read batch %s: %w", id, rdb.MapError(ctx, err))
}

// checkHash checks the fields of the hash of a batch that its head does not authenticate.
func checkHash(id string, m map[string]string) error {
	status := batch.Status(m["status"])
	if !slices.Contains(batch.Statuses(), status) {
		return contradiction(id, "its status is none that a batch has")
	}
	total, _ := number(m["total"])
	sum := int64(0)
	for _, o := range batch.Outcomes() {
		n, ok := number(m[o.String()])
		if !ok || n > total {
			return contradiction(id, "the count of actions that are %s is none", o)
		}
		sum += n
	}
	if sum != total {
		return contradiction(id, "its counts do not add up to its %d actions", total)
	}
	if status.Terminal() != (m[batch.Pending.String()] == "0") || status.Terminal() != (m["ended"] != "") {
		return contradiction(id, "its status %s does not agree with its pending actions or its end", status)
	}
	if status == batch.StatusExpired && m[batch.Expired.String()] == "0" {
		return contradiction(id, "it has expired, and no action of it has")
	}
	for _, name := range []string{"created", "expires", "started", "ended"} {
		always := name == "created" || name == "expires"
		if (always || m[name] != "") && !within(m[name], 0, maxMillis-1) {
			return contradiction(id, "the time %s is none", name)
		}
	}
	if m["round"] != "" && !within(m["round"], 2, maxRounds) {
		return contradiction(id, "its round is none")
	}
	return nil
}

// checkDelivery checks the fields of the hash about deliveries of the webhook in rounds up to the present one.
func checkDelivery(id string, m map[string]string, round int) error {
	if !slices.Contains([]batch.DeliveryState{"", batch.DeliveryWaiting, batch.DeliveryPending, batch.DeliveryDelivered, batch.DeliveryGone, batch.DeliveryFailed}, batch.DeliveryState(m["delivery"])) {
		return contradiction(id, "the delivery of its webhook has a state that none has")
	}
	for past := 1; past < round; past++ {
		state := batch.DeliveryState(m["end:"+strconv.Itoa(past)])
		if !slices.Contains([]batch.DeliveryState{"", batch.DeliveryWithdrawn, batch.DeliveryDelivered, batch.DeliveryGone, batch.DeliveryFailed}, state) {
			return contradiction(id, "the delivery of round %d has a state that none has", past)
		}
	}
	if m["next"] != "" && !within(m["next"], 0, maxMillis-1) {
		return contradiction(id, "the time of its next delivery is none")
	}
	return nil
}

// check checks states that a snapshot has, from an index on. It finds more if the snapshot has the hash, too, since
// one step has read both, and most if it has all states.
func (s *snapshot) check(id string, from int, of shape) error {
	if s.length >= 0 && s.length != of.total {
		return contradiction(id, "it has the states of %d actions, and %d actions", s.length, of.total)
	}
	if len(s.states) > of.total-from || s.states == "" && from < of.total {
		return contradiction(id, "it has not as many states as actions")
	}
	looked := s.states
	if s.all != "" {
		looked, from = s.all, 0
	}
	var byState [256]int
	for i := range len(looked) {
		byState[looked[i]]++
	}
	var seen batch.Counts
	known := 0
	for state, outcome := range states {
		if (state == 'w' || state == 'g') && !of.groups {
			continue
		}
		*seen.Of(outcome) += byState[state]
		known += byState[state]
	}
	if known < len(looked) {
		return contradiction(id, "an action from %d on has a state that none of it has", from)
	}
	for _, o := range batch.Outcomes() {
		if n, _ := number(s.meta[o.String()]); s.meta != nil && (int64(*seen.Of(o)) > n || s.all != "" && int64(*seen.Of(o)) < n) {
			return contradiction(id, "it has %d actions that are %s, and counts %d", *seen.Of(o), o, n)
		}
	}
	return nil
}

// errChanged says that a batch changed between the exchanges that read it.
var errChanged = errors.New("the batch changed while its results were read")

// confirm looks again, in one step, at a part of a batch that seemed to be damaged: between two exchanges the batch may
// have been deleted, have expired or have been retried. It returns the error of the damage, [batch.ErrNotFound] or
// errChanged.
func (b *Batches) confirm(ctx context.Context, id string, w window, found error) error {
	damaged := (*batch.DamagedError)(nil)
	if !errors.As(found, &damaged) {
		return found
	}
	seen, err := b.readSnapshot(ctx, id, w)
	if err != nil {
		return err
	}
	if len(seen.meta) == 0 {
		return batch.ErrNotFound
	}
	if err := b.verify(id, seen.meta); err != nil {
		return err
	}
	of := shapeOf(seen.meta)
	if err := seen.check(id, w.from, of); err != nil {
		return err
	}
	if seen.results == nil {
		return errChanged
	}
	indexes, _, states := seen.choose(w.from, w.limit, nil)
	if _, err = b.openResults(ctx, id, of, indexes, states, seen.results); !errors.As(err, &damaged) {
		if err == nil {
			err = errChanged
		}
		return err
	}
	m, again := b.Meta(ctx, id)
	if again == nil && len(m) == 0 {
		again = batch.ErrNotFound
	}
	if again != nil {
		return again
	}
	return err
}

// verify checks the hash of a batch: against its head, and for contradictions.
func (b *Batches) verify(id string, m map[string]string) error {
	if err := b.Codec.Verify(id, m); err != nil {
		return err
	}
	return checkHash(id, m)
}
