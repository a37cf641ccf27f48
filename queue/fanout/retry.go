package fanout

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/crash"
	"github.com/batchd/batchd/queue/batches"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/limits"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/tasks"
)

const (
	// retryTTL is how long a retry may take from its marker to its step. It is shorter
	// than listHold, so that the batch stays in its lists until then.
	retryTTL = 20 * time.Second
	// retryTries is how often a retry begins again because another one overtook it.
	retryTries = 3
)

// errOvertaken says that a batch changed while a retry was prepared.
var errOvertaken = errors.New("the batch changed while its retry was prepared")

// Retrial is one try at retrying a batch. Its marker stands until its step: without it the
// step is refused, and what the limit gave for it is free again.
type Retrial struct {
	S        *Fanout
	Owner    string
	ID       string
	Token    string
	Marker   string
	N        int
	admitted limits.Admission
}

// Retry implements [batch.Store].
func (s *Fanout) Retry(ctx context.Context, owner, id string, spec *batch.RetrySpec) (*batch.Batch, *batch.LimitState, error) {
	if !keys.IsBatchID(id) {
		return nil, nil, batch.ErrNotFound
	}
	var again strings.Builder
	for _, o := range spec.Outcomes {
		state, err := batches.StateOf(o)
		if err != nil {
			return nil, nil, err
		}
		again.WriteString(state)
		if o == batch.Unknown {
			again.WriteByte(batches.OverdueState)
		}
	}
	for range retryTries {
		m, state, err := s.tryRetry(ctx, owner, id, again.String(), spec)
		if errors.Is(err, errOvertaken) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		b, err := s.startRetry(ctx, owner, id, m)
		return b, state, err
	}
	return nil, nil, &batch.UnavailableError{RetryAfter: time.Second, Err: errOvertaken}
}

// tryRetry asks the limit for the actions with one of the states, and has them run again. It returns
// what of the batch's hash says how.
func (s *Fanout) tryRetry(ctx context.Context, owner, id, states string, spec *batch.RetrySpec) (map[string]string, *batch.LimitState, error) {
	m, err := s.batches.Meta(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	t := &Retrial{S: s, Owner: owner, ID: id, Token: rand.Text()}
	t.Marker = keys.MarkerKey(id, t.Token)
	for _, o := range spec.Outcomes {
		t.N += int(rdb.Atoi(m[o.String()]))
	}
	switch {
	case len(m) == 0 || m["owner"] != owner:
		return nil, nil, batch.ErrNotFound
	case m["ended"] == "":
		return nil, nil, batch.ErrNotTerminal
	case m["groups"] != "":
		return nil, nil, batch.ErrGrouped
	case t.N == 0:
		return nil, nil, batch.ErrNothingToRetry
	}
	throttle := ""
	if spec.Throttle != nil {
		limit, err := json.Marshal(spec.Throttle)
		if err != nil {
			return nil, nil, fmt.Errorf("encode the limit: %w", err)
		}
		throttle = string(limit)
	}
	state, err := t.Prepare(ctx, spec.Limit, throttle != "")
	if err != nil {
		s.background.Detach(t.drop)
		return nil, nil, err
	}
	answer, err := s.db.Run(ctx, Steps.Retry, append(keys.KeysOf(id).Step(), keys.KeysOf(id).Deliveries, t.Marker), owner, states, t.Token, t.N, throttle)
	if err != nil || answer[0] != "ok" {
		s.background.Detach(t.drop)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("retry batch %s: %w", id, err)
	}
	switch answer[0] {
	case "ok":
		crash.At(crash.Retried)
		s.batches.Outbox.Withdraw(ctx, id, answer[2])
		if err := s.limits.ForgetGrant(ctx, owner, id, m["throttle"], m["grant"]); err != nil {
			s.log.WarnContext(ctx, "grant of an earlier round left to expire", "batch", id, "error", err)
		}
		m["asked"], m["round"], m["throttle"], m["grant"] = answer[1], strconv.Itoa(batches.RoundOf(m)+1), throttle, t.Token
		return m, state, nil
	case "gone":
		return nil, nil, batch.ErrNotFound
	case "not_terminal":
		return nil, nil, batch.ErrNotTerminal
	case "groups":
		return nil, nil, batch.ErrGrouped
	case "nothing":
		return nil, nil, batch.ErrNothingToRetry
	default:
		return nil, nil, errOvertaken
	}
}

// Prepare marks the retry, asks the limit for its actions, and has the batch looked after: the
// sweeper has to know of it before it runs, since it brings what a crash leaves waiting.
func (t *Retrial) Prepare(ctx context.Context, limit *batch.Limit, throttled bool) (*batch.LimitState, error) {
	if err := t.mark(ctx); err != nil {
		return nil, err
	}
	var state *batch.LimitState
	if limit != nil {
		given, err := t.S.limits.Admit(ctx, limits.Asked{Owner: t.Owner, Grant: limits.GrantName(t.ID, t.Token), N: t.N, Limit: *limit})
		if err != nil {
			return nil, err
		}
		if given.Holds < t.N {
			return nil, given.Refusal(t.N)
		}
		t.admitted = limits.Admission{Keys: limits.LimitKeys(t.Owner, limit.Scope), Taken: given.Taken}
		state = &given.State
		crash.At(crash.RetryAdmitted)
	}
	if err := t.S.batches.Index.Reopen(ctx, t.ID, throttled); err != nil {
		return nil, err
	}
	crash.At(crash.Reopened)
	return state, nil
}

func (t *Retrial) mark(ctx context.Context) error {
	ctx, cancel := t.S.db.WithTimeout(ctx)
	defer cancel()
	return rdb.MapError(ctx, t.S.db.Client.Set(ctx, t.Marker, 1, retryTTL).Err())
}

// drop ends a retry that may have come to nothing. Once the marker is gone, its step is
// refused even if it comes late; if it was done, the grant is the batch's.
func (t *Retrial) drop(ctx context.Context) {
	if err := t.S.db.Unlink(ctx, t.Marker); err != nil {
		t.S.log.WarnContext(ctx, "marker of a retry left to expire", "batch", t.ID, "error", err)
		return
	}
	if len(t.admitted.Taken) == 0 {
		return
	}
	m, err := t.S.batches.Meta(ctx, t.ID)
	if err == nil && m["grant"] != t.Token {
		_, err = t.S.db.Run(ctx, limits.Steps.Refund, t.admitted.Keys, append([]any{limits.GrantName(t.ID, t.Token)}, t.admitted.Taken...)...)
	}
	if err != nil {
		t.S.log.WarnContext(ctx, "what a retry was admitted is left to run out", "batch", t.ID, "error", err)
	}
}

// startRetry offers the actions of a batch that runs again, as its limit allows, and returns
// the batch. It offers them before anything else can fail: the sweeper finds what nobody offered
// only later.
func (s *Fanout) startRetry(ctx context.Context, owner, id string, m map[string]string) (b *batch.Batch, err error) {
	most, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	s.background.GoAndWait(most, func(ctx context.Context) {
		err := rdb.RetryUnavailable(ctx, func() error {
			if m["throttle"] != "" {
				return s.release(ctx, id)
			}
			return s.OfferWaiting(ctx, tasks.FlowOf(id, m), 0, int(rdb.Atoi(m["total"])))
		})
		if err != nil {
			s.log.WarnContext(ctx, "retry broke off, the sweeper will finish it", "batch", id, "error", err)
		}
	})
	err = rdb.RetryUnavailable(ctx, func() (err error) { // asked for once more, the retry would be refused
		b, err = s.batches.Get(ctx, owner, id, 0)
		return err
	})
	return b, err
}
