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
	"github.com/batchd/batchd/queue/quotas"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/tasks"
)

const (
	// retryTTL is the longest time from the marker of a retry to its step. It is shorter than
	// the ListHold of the index, so that the batch stays in its lists until then.
	retryTTL = 20 * time.Second
	// retryTries is the most attempts at a retry, if other steps change the batch meanwhile.
	retryTries = 3
)

// errOvertaken means that another step changed a batch while a retry of it was prepared.
var errOvertaken = errors.New("the batch changed while its retry was prepared")

// retryAttempt is one attempt at retrying a batch. Its marker exists until its step. Without the marker, Redis
// refuses the step, and the admitted actions no longer count as in flight.
type retryAttempt struct {
	fanout *Fanout
	owner  string
	id     string // of the batch
	token  string // of the attempt and of its grant
	marker string // the key of the marker
	n      int    // the number of actions to run again

	admitted []limits.Admission
}

// Retry implements [batch.Store]. It offers the actions with the given outcomes again, and returns the batch and
// the state of the limit, or nil if the retry has no limit.
func (f *Fanout) Retry(ctx context.Context, owner, id string, spec *batch.RetrySpec) (*batch.Batch, *batch.LimitState, error) {
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
		m, state, err := f.tryRetry(ctx, owner, id, again.String(), spec)
		if errors.Is(err, errOvertaken) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		b, err := f.startRetry(ctx, owner, id, m)
		return b, state, err
	}
	return nil, nil, &batch.UnavailableError{RetryAfter: time.Second, Err: errOvertaken}
}

// tryRetry makes one attempt: it asks the limit for the actions with one of the states, and makes them wait again.
// It returns the hash of the batch, with the new values of the fields that startRetry needs.
func (f *Fanout) tryRetry(ctx context.Context, owner, id, states string, spec *batch.RetrySpec) (map[string]string, *batch.LimitState, error) {
	m, err := f.batches.MetaFor(ctx, owner, id)
	if err != nil {
		return nil, nil, err
	}
	a := &retryAttempt{fanout: f, owner: owner, id: id, token: rand.Text()}
	a.marker = keys.MarkerKey(id, a.token)
	for _, o := range spec.Outcomes {
		a.n += int(rdb.Atoi(m[o.String()]))
	}
	if _, err := f.batches.Codec.DecodeBatch(id, m); err != nil {
		return nil, nil, err
	}
	switch {
	case m["ended"] == "":
		return nil, nil, batch.ErrNotTerminal
	case m["groups"] != "":
		return nil, nil, batch.ErrGrouped
	case a.n == 0:
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
	room, bounds, err := a.charge(ctx, spec.Accounts, m)
	if err != nil {
		return nil, nil, err
	}
	state, err := a.prepare(ctx, spec.Limit, throttle != "")
	if err != nil {
		f.background.Detach(a.drop)
		return nil, nil, err
	}
	// After the step, no process would find the grant of the earlier round.
	if err := f.limits.ForgetGrant(ctx, owner, id, m["throttle"], m["grant"]); err != nil {
		f.log.WarnContext(ctx, "grant of the earlier round not removed", "batch", id, "error", err)
	}
	answer, err := f.db.Run(ctx, Steps.Retry, append(keys.KeysOf(id).Step(), keys.KeysOf(id).Deliveries, a.marker), owner, states, a.token, a.n, throttle, room, bounds)
	if err != nil || answer[0] != "ok" {
		f.background.Detach(a.drop)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("retry batch %s: %w", id, err)
	}
	switch answer[0] {
	case "ok":
		crash.At(crash.Retried)
		f.batches.Outbox.Withdraw(ctx, id, answer[2])
		m["round"], m["throttle"] = strconv.Itoa(batches.RoundOf(m)+1), throttle
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

// prepare sets the marker, asks the limit to admit the actions, and enters the batch into the lists of the sweeper.
// The batch must be in these lists before the step: if a process crashes after the step, the sweeper offers the
// waiting actions. prepare returns a [*batch.LimitedError] if the limit does not admit all actions.
func (a *retryAttempt) prepare(ctx context.Context, limit *batch.Limit, throttled bool) (*batch.LimitState, error) {
	if err := a.mark(ctx); err != nil {
		return nil, err
	}
	var state *batch.LimitState
	if limit != nil {
		given, err := a.fanout.limits.Admit(ctx, limits.Asked{Owner: a.owner, Grant: limits.GrantName(a.id, a.token), N: a.n, Limit: *limit})
		if err != nil {
			return nil, err
		}
		if given.Holds < a.n {
			return nil, given.Refusal(a.n)
		}
		a.admitted = given.Admissions
		state = &given.State
		crash.At(crash.RetryAdmitted)
	}
	if err := a.fanout.batches.Index.Reopen(ctx, a.id, throttled); err != nil {
		return nil, err
	}
	crash.At(crash.Reopened)
	return state, nil
}

// charge counts the batch as open again. It returns the room of the batch and the accounts that bound it, for the
// batch's hash. If the retry does not happen, the batch counts as open until the account looks at it.
func (a *retryAttempt) charge(ctx context.Context, accounts []batch.Account, m map[string]string) (room int64, bounds string, err error) {
	var charged []batch.Account
	for _, account := range accounts {
		if account.Kind == batch.AddressAccount {
			account.Name = m["payer"]
		}
		if account.Name != "" && account.Quotas.Bounded() {
			charged = append(charged, account)
		}
	}
	n := a.n
	if bounds = quotas.Bounds(charged); bounds == "" {
		n = 0 // the results need no room
	}
	room, err = a.fanout.batches.Quotas.Reopen(ctx, charged, a.id, rdb.Atoi(m["stored"]), n)
	return room, bounds, err
}

// mark sets the marker of the attempt, which expires after retryTTL.
func (a *retryAttempt) mark(ctx context.Context) error {
	ctx, cancel := a.fanout.db.WithTimeout(ctx)
	defer cancel()
	return rdb.MapError(ctx, a.fanout.db.Client.Set(ctx, a.marker, 1, retryTTL).Err())
}

// drop cleans up after an attempt that failed, or whose outcome is not known. Once drop has removed the marker,
// Redis refuses the step even if it arrives late. If Redis has run the step, the grant belongs to the batch, and
// drop keeps it.
func (a *retryAttempt) drop(ctx context.Context) {
	if err := a.fanout.db.Unlink(ctx, a.marker); err != nil {
		a.fanout.log.WarnContext(ctx, "marker of a failed retry not removed, it will expire", "batch", a.id, "error", err)
		return
	}
	if len(a.admitted) == 0 {
		return
	}
	m, err := a.fanout.batches.Meta(ctx, a.id)
	if err == nil && m["grant"] != a.token {
		err = a.fanout.limits.Refund(ctx, a.admitted...)
	}
	if err != nil {
		a.fanout.log.WarnContext(ctx, "admission of a failed retry not refunded", "batch", a.id, "error", err)
	}
}

// startRetry offers the actions of a retried batch, or as many as the limit admits if it is throttled, and returns
// the batch. It offers them before any other step can fail: the sweeper would find the actions only later.
func (f *Fanout) startRetry(ctx context.Context, owner, id string, m map[string]string) (b *batch.Batch, err error) {
	f.runAndWait(ctx, func(ctx context.Context) {
		err := rdb.RetryUnavailable(ctx, func() error {
			if m["throttle"] != "" {
				return f.release(ctx, id)
			}
			return f.OfferWaiting(ctx, tasks.FlowOf(id, m), 0, int(rdb.Atoi(m["total"])))
		})
		if err != nil {
			f.log.WarnContext(ctx, "fan-out of a retry failed, the sweeper will finish it", "batch", id, "error", err)
		}
	})
	err = rdb.RetryUnavailable(ctx, func() (err error) { // a client that repeated the request would be refused
		b, err = f.batches.Get(ctx, owner, id, 0)
		return err
	})
	return b, err
}
