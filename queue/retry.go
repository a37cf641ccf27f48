package queue

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
	"github.com/batchd/batchd/queue/rdb"
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

// retrial is one try at retrying a batch. Its marker stands until its step: without it the
// step is refused, and what the limit gave for it is free again.
type retrial struct {
	s        *Store
	owner    string
	id       string
	token    string
	marker   string
	n        int
	admitted admission
}

// Retry implements [batch.Store].
func (s *Store) Retry(ctx context.Context, owner, id string, spec *batch.RetrySpec) (*batch.Batch, *batch.LimitState, error) {
	if !known(id) {
		return nil, nil, batch.ErrNotFound
	}
	var again strings.Builder
	for _, o := range spec.Outcomes {
		state, err := stateOf(o)
		if err != nil {
			return nil, nil, err
		}
		again.WriteString(state)
		if o == batch.Unknown {
			again.WriteByte(overdueState)
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
func (s *Store) tryRetry(ctx context.Context, owner, id, states string, spec *batch.RetrySpec) (map[string]string, *batch.LimitState, error) {
	m, err := s.meta(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	t := &retrial{s: s, owner: owner, id: id, token: rand.Text()}
	t.marker = markerKey(id, t.token)
	for _, o := range spec.Outcomes {
		t.n += int(rdb.Atoi(m[o.String()]))
	}
	switch {
	case len(m) == 0 || m["owner"] != owner:
		return nil, nil, batch.ErrNotFound
	case m["ended"] == "":
		return nil, nil, batch.ErrNotTerminal
	case m["groups"] != "":
		return nil, nil, batch.ErrGrouped
	case t.n == 0:
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
	state, err := t.prepare(ctx, spec.Limit, throttle != "")
	if err != nil {
		s.background.Detach(t.drop)
		return nil, nil, err
	}
	answer, err := s.db.Run(ctx, s.steps.retry, append(keysOf(id).step(), keysOf(id).deliveries, t.marker), owner, states, t.token, t.n, throttle)
	if err != nil || answer[0] != "ok" {
		s.background.Detach(t.drop)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("retry batch %s: %w", id, err)
	}
	switch answer[0] {
	case "ok":
		crash.At(crash.Retried)
		s.withdraw(ctx, id, answer[2])
		if err := s.forgetGrant(ctx, owner, id, m["throttle"], m["grant"]); err != nil {
			s.log.WarnContext(ctx, "grant of an earlier round left to expire", "batch", id, "error", err)
		}
		m["asked"], m["round"], m["throttle"], m["grant"] = answer[1], strconv.Itoa(roundOf(m)+1), throttle, t.token
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

// prepare marks the retry, asks the limit for its actions, and has the batch looked after: the
// sweeper has to know of it before it runs, since it brings what a crash leaves waiting.
func (t *retrial) prepare(ctx context.Context, limit *batch.Limit, throttled bool) (*batch.LimitState, error) {
	if err := t.mark(ctx); err != nil {
		return nil, err
	}
	var state *batch.LimitState
	if limit != nil {
		given, err := t.s.admit(ctx, asked{owner: t.owner, grant: grantName(t.id, t.token), n: t.n, limit: *limit})
		if err != nil {
			return nil, err
		}
		if given.holds < t.n {
			return nil, given.refusal(t.n)
		}
		t.admitted = admission{keys: limitKeys(t.owner, limit.Scope), taken: given.taken}
		state = &given.state
		crash.At(crash.RetryAdmitted)
	}
	if err := t.s.reopen(ctx, t.id, throttled); err != nil {
		return nil, err
	}
	crash.At(crash.Reopened)
	return state, nil
}

func (t *retrial) mark(ctx context.Context) error {
	ctx, cancel := t.s.db.WithTimeout(ctx)
	defer cancel()
	return rdb.MapError(ctx, t.s.db.Client.Set(ctx, t.marker, 1, retryTTL).Err())
}

// drop ends a retry that may have come to nothing. Once the marker is gone, its step is
// refused even if it comes late; if it was done, the grant is the batch's.
func (t *retrial) drop(ctx context.Context) {
	if err := t.s.db.Unlink(ctx, t.marker); err != nil {
		t.s.log.WarnContext(ctx, "marker of a retry left to expire", "batch", t.id, "error", err)
		return
	}
	if len(t.admitted.taken) == 0 {
		return
	}
	m, err := t.s.meta(ctx, t.id)
	if err == nil && m["grant"] != t.token {
		_, err = t.s.db.Run(ctx, t.s.steps.readmit, t.admitted.keys, append([]any{grantName(t.id, t.token)}, t.admitted.taken...)...)
	}
	if err != nil {
		t.s.log.WarnContext(ctx, "what a retry was admitted is left to run out", "batch", t.id, "error", err)
	}
}

// startRetry offers the actions of a batch that runs again, as its limit allows, and returns
// the batch. It offers them before anything else can fail: the sweeper finds what nobody offered
// only later.
func (s *Store) startRetry(ctx context.Context, owner, id string, m map[string]string) (b *batch.Batch, err error) {
	most, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	s.background.GoAndWait(most, func(ctx context.Context) {
		err := rdb.RetryUnavailable(ctx, func() error {
			if m["throttle"] != "" {
				return s.feed(ctx, id)
			}
			return s.offerWaiting(ctx, flowOf(id, m), 0, int(rdb.Atoi(m["total"])))
		})
		if err != nil {
			s.log.WarnContext(ctx, "retry broke off, the sweeper will finish it", "batch", id, "error", err)
		}
	})
	err = rdb.RetryUnavailable(ctx, func() (err error) { // asked for once more, the retry would be refused
		b, err = s.Get(ctx, owner, id, 0)
		return err
	})
	return b, err
}
