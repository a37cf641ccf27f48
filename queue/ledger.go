package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/seal"
)

const (
	// beginRetryFor is how long a begin is repeated while Redis is away, and its giving
	// back: who does not know whether an action is begun would leave it in doubt.
	beginRetryFor = 90 * time.Minute
)

// Begin implements [batch.Ledger].
func (s *Store) Begin(ctx context.Context, id string, index int, worker string) (*batch.Begun, error) {
	if !known(id) {
		return &batch.Begun{Verdict: batch.Gone}, nil
	}
	for {
		if err := s.history.settled(ctx); err != nil {
			return nil, err
		}
		r := &ride{step: s.steps.begin, id: id, head: []any{worker, ""}, index: index, args: []any{s.db.Token()}, read: true}
		a := s.attempts.begin(id, index, rdb.Text(r.args[0]))
		begun, err := s.begin(ctx, r, worker)
		if err != nil {
			if r.mayBeBegun() {
				err = errors.Join(err, s.giveBackBegun(ctx, r))
			}
			s.attempts.notBegun(a)
			return nil, err
		}
		if begun, err = s.begunAgain(ctx, a, begun, rdb.Text(r.common[4])); begun != nil || err != nil {
			return begun, err
		}
	}
}

// begin runs the step and reads its answer. With an error the action may be begun.
func (s *Store) begin(ctx context.Context, r *ride, worker string) (*batch.Begun, error) {
	id, index := r.id, r.index
	again := func() error {
		return rdb.RetryUnavailableFor(ctx, beginRetryFor, func() error { return s.combine.do(r) })
	}
	err := again()
	if err == nil && r.first {
		s.tellIf(ctx, id, rdb.Text(r.common[2]))
		if waited, ok := r.common[5].([]any); ok {
			s.retractAside(id, rdb.Texts(waited))
		}
	}
	if err == nil && r.verdict() == "held" {
		var alive []string
		holder := parseEntry(r.own[1])
		if alive, err = s.alive(ctx); err == nil && (holder.worker == worker || !slices.Contains(alive, holder.worker)) {
			r.head = []any{worker, holder.token}
			err = again()
		}
	}
	if err == nil && r.verdict() == "interrupted" {
		// A second task for what a live worker has in flight: as when the first one
		// was thought to be lost, and is not.
		var held bool
		holder := parseEntry(r.own[1])
		if held, err = s.heldByOther(ctx, worker, holder.worker, holder.started); held {
			r.own[0] = "held"
		}
	}
	if err != nil {
		return nil, fmt.Errorf("begin action %d of batch %s: %w", index, id, err)
	}
	switch r.verdict() {
	case usual, "run":
		return s.begunOf(r, batch.Run)
	case "interrupted":
		return s.begunOf(r, batch.Interrupted)
	case "ended":
		return &batch.Begun{Verdict: batch.Ended}, nil
	case "gone":
		return &batch.Begun{Verdict: batch.Gone}, nil
	case "held":
		return &batch.Begun{Verdict: batch.Held}, nil
	case "waiting":
		return &batch.Begun{Verdict: batch.Waiting}, nil
	default:
		return nil, fmt.Errorf("begin action %d of batch %s: %w: %q", index, id, rdb.ErrAnswer, r.verdict())
	}
}

// usual is the verdict of a step on an action with which it went as usual.
const usual = ""

// verdict returns the step's verdict on this action.
func (r *ride) verdict() string {
	if len(r.own) == 0 {
		return usual
	}
	return r.own[0]
}

// begunOf reads the answer of lua/begin.lua for an action that somebody has begun.
func (s *Store) begunOf(r *ride, verdict batch.Verdict) (*batch.Begun, error) {
	b := &batch.Begun{Verdict: verdict, ExpiresAt: rdb.FromMillis(rdb.Text(r.common[0])), Target: rdb.Text(r.common[1])}
	var group, previous, last string
	if r.own == nil {
		b.Token, b.Worker = batch.Token(rdb.Text(r.args[0])), rdb.Text(r.head[0])
		b.Attempt, b.StartedAt = 1, rdb.FromMillis(rdb.Text(r.common[3]))
		b.FirstAt = b.StartedAt
	} else {
		e := parseEntry(r.own[1])
		b.Token, b.Worker = batch.Token(e.token), e.worker
		b.Attempt, b.Earlier, b.FirstAt, b.StartedAt = e.attempts, e.earlier, e.first, e.started
		group, previous, last = r.own[2], r.own[3], r.own[4]
	}
	var err error
	if b.Action, err = s.openAction(r.id, r.index, rdb.Text(r.action)); err != nil {
		return nil, err
	}
	if group != "" {
		if b.Group, err = s.openGroup(r.id, r.index, group); err != nil {
			return nil, err
		}
	}
	if b.Previous, err = s.previous(r.id, r.index, previous, last); err != nil {
		return nil, err
	}
	return b, nil
}

// heldByOther reports whether another worker, which is alive, can still have an
// action in flight that it began at that time.
func (s *Store) heldByOther(ctx context.Context, worker, holder string, began time.Time) (bool, error) {
	if holder == worker {
		return false, nil
	}
	now, err := s.db.Now(ctx)
	if err != nil || now.Sub(began) > taskTimeout {
		return false, err
	}
	alive, err := s.alive(ctx)
	return slices.Contains(alive, holder), err
}

func (s *Store) openResult(id string, index int, sealed string) (*batch.Result, error) {
	opened, err := s.seals.Open(seal.Label{ID: id, Kind: "r", Index: index}, []byte(sealed))
	if err != nil {
		return nil, fmt.Errorf("read the result of action %d of batch %s: %w", index, id, err)
	}
	r := &batch.Result{}
	if err := r.UnmarshalJSON(opened); err != nil {
		return nil, fmt.Errorf("read the result of action %d of batch %s: %w", index, id, err)
	}
	return r, nil
}

func (s *Store) openAction(id string, index int, sealed string) (batch.Action, error) {
	opened, err := s.seals.Open(seal.Label{ID: id, Kind: "a", Index: index}, []byte(sealed))
	if err != nil {
		return batch.Action{}, fmt.Errorf("read action %d of batch %s: %w", index, id, err)
	}
	a, err := decodeAction(opened)
	if err != nil {
		return batch.Action{}, fmt.Errorf("read action %d of batch %s: %w", index, id, err)
	}
	return a, nil
}

// Finish implements [batch.Ledger].
func (s *Store) Finish(ctx context.Context, id string, index int, token batch.Token, r *batch.Result) error {
	state, err := stateOf(r.Outcome)
	if err != nil {
		return err
	}
	sealed := s.seals.Seal(seal.Label{ID: id, Kind: "r", Index: index}, r.Encode())
	origin, waited := "", s.handOver.awaited(id)
	if waited > 0 {
		origin = s.db.Name
	}
	ride := &ride{
		step: s.steps.finish, id: id, head: []any{origin, firstResults, firstBytes},
		index: index, args: []any{string(token), state, sealed}, calm: s.running.Load() > 0, // else nobody may come soon
	}
	if err := s.combine.do(ride); err != nil {
		return fmt.Errorf("finish action %d of batch %s: %w", index, id, err)
	}
	if ride.verdict() == "stale" && s.restored(ctx, id, index, token, batch.ErrStale) {
		return s.Finish(ctx, id, index, token, r)
	}
	if ride.first {
		if ended := ride.common[1]; ended != "" {
			s.handOver.tell(id, s.endedBatch(ctx, id, ended), waited)
		}
		s.tellIf(ctx, id, rdb.Text(ride.common[0]))
	}
	err = verdictError(ride.verdict())
	s.attemptEnded(id, index, token, err, state, sealed, nil)
	return err
}

// Release implements [batch.Ledger].
func (s *Store) Release(ctx context.Context, id string, index int, token batch.Token, last *batch.Result) (bool, error) {
	return s.release(ctx, id, index, token, "0", s.sealLast(id, index, last))
}

// GiveBack implements [batch.Ledger].
func (s *Store) GiveBack(ctx context.Context, id string, index int, token batch.Token) (bool, error) {
	return s.release(ctx, id, index, token, "1", nil)
}

// giveBackBegun gives back an action that a begin may have begun, and that is not
// going to be sent. Until Redis says what became of that, the action may be taken for
// one whose fate is not known, so this goes on for as long as the store is open.
func (s *Store) giveBackBegun(ctx context.Context, r *ride) error {
	ctx = context.WithoutCancel(ctx)
	err := rdb.RetryUnavailableFor(ctx, beginRetryFor, func() error {
		_, err := s.GiveBack(ctx, r.id, r.index, batch.Token(rdb.Text(r.args[0])))
		return err
	})
	if errors.Is(err, batch.ErrStale) || errors.Is(err, batch.ErrNotFound) {
		return nil // it was not begun, or is gone
	}
	return err
}

// mayBeBegun reports whether the last try of a begin may have begun the action.
func (r *ride) mayBeBegun() bool {
	return r.err != nil || r.verdict() != "held" && r.verdict() != "interrupted"
}

// mostReleasing is the most releases under way at a time. Each has an exchange and a connection of
// its own: when hundreds of actions are released at once, begins and finishes must still find connections.
const mostReleasing = rdb.PoolSize * 3 / 8

func (s *Store) release(ctx context.Context, id string, index int, token batch.Token, unsent string, last []byte) (bool, error) {
	select {
	case s.releasing <- struct{}{}:
	case <-ctx.Done():
		return false, fmt.Errorf("release action %d of batch %s: %w", index, id, rdb.MapError(ctx, ctx.Err()))
	}
	answer, err := s.db.Run(ctx, s.steps.release, keysOf(id).step(), id, doneChannel, index, string(token), unsent, last)
	<-s.releasing
	if err != nil {
		s.doubtIf(id, err)
		return false, fmt.Errorf("release action %d of batch %s: %w", index, id, err)
	}
	s.tellIf(ctx, id, answer[1])
	s.retractAside(id, answer[2:])
	err = verdictError(answer[0])
	if s.restored(ctx, id, index, token, err) {
		return s.release(ctx, id, index, token, unsent, last)
	}
	if unsent == "1" {
		s.attempts.uncount(id, index, string(token))
	}
	s.attemptEnded(id, index, token, err, stateWaiting, last, nil)
	return answer[0] == "released", err
}

func verdictError(verdict string) error {
	switch verdict {
	case "stale":
		return batch.ErrStale
	case "gone":
		return batch.ErrNotFound
	case "terminal":
		return batch.ErrTerminal
	default:
		return nil
	}
}

// parseEntry reads a ledger entry; see lua/lib.lua.
func parseEntry(packed string) entry {
	parts := strings.SplitN(packed, "|", 6)
	if len(parts) < 6 {
		return entry{}
	}
	earlier, round, _ := strings.Cut(parts[4], ".")
	return entry{
		token: parts[0], attempts: int(rdb.Atoi(parts[1])), first: rdb.FromMillis(parts[2]), started: rdb.FromMillis(parts[3]),
		earlier: int(rdb.Atoi(earlier)), round: round, worker: parts[5],
	}
}

// String returns the ledger entry; see lua/lib.lua.
func (e *entry) String() string {
	earlier := strconv.Itoa(e.earlier)
	if e.round != "" {
		earlier += "." + e.round
	}
	return strings.Join([]string{e.token, strconv.Itoa(e.attempts), rdb.MillisOf(e.first), rdb.MillisOf(e.started), earlier, e.worker}, "|")
}

// noteRunning notes that this process runs n more actions, or fewer: steps of others may come soon.
func (s *Store) noteRunning(n int) { s.running.Add(int64(n)) }
