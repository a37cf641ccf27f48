package queue

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/batchd/batchd/internal/batch"
)

const (
	// beginPatience is how long a begin is repeated while Redis is away.
	beginPatience = time.Minute
	// beginPause is the pause between two of them.
	beginPause = 200 * time.Millisecond
)

// Begin implements [batch.Ledger].
func (s *Store) Begin(ctx context.Context, id string, index int, worker string) (*batch.Begun, error) {
	if !known(id) {
		return &batch.Begun{Verdict: batch.Gone}, nil
	}
	token := rand.Text()[:16]
	begin := func(from string) ([]string, error) {
		return s.run(ctx, s.steps.begin, keysOf(id).step(), id, doneChannel, index, token, worker, from)
	}
	answer, err := s.insist(ctx, func() ([]string, error) { return begin("") })
	if err == nil && answer[0] == "held" {
		var alive []string
		if alive, err = s.alive(ctx); err == nil && (answer[2] == worker || !slices.Contains(alive, answer[2])) {
			answer, err = begin(answer[1])
		}
	}
	if err != nil {
		return nil, fmt.Errorf("begin action %d of batch %s: %w", index, id, err)
	}
	if answer[0] == "interrupted" {
		// A second task for what a live worker has in flight: as when the first one
		// was thought to be lost, and is not.
		held, err := s.heldByOther(ctx, worker, answer[5], fromMillis(answer[4]))
		if err != nil {
			return nil, fmt.Errorf("begin action %d of batch %s: %w", index, id, err)
		}
		if held {
			answer[0] = "held"
		}
	}
	b := &batch.Begun{}
	switch answer[0] {
	case "run":
		b.Verdict = batch.Run
	case "interrupted":
		b.Verdict = batch.Interrupted
	case "ended":
		b.Verdict = batch.Ended
		return b, nil
	case "gone":
		b.Verdict = batch.Gone
		return b, nil
	case "held":
		b.Verdict = batch.Held
		return b, nil
	case "waiting":
		b.Verdict = batch.Waiting
		return b, nil
	default:
		return nil, fmt.Errorf("begin action %d of batch %s: unknown answer %q", index, id, answer[0])
	}
	b.Token, b.Attempt = batch.Token(answer[1]), int(atoi(answer[2]))
	b.FirstAt, b.StartedAt = fromMillis(answer[3]), fromMillis(answer[4])
	b.Worker, b.ExpiresAt, b.Target = answer[5], fromMillis(answer[6]), answer[7]
	if b.Action, err = s.openAction(id, index, answer[8]); err != nil {
		if b.Verdict == batch.Run && b.Group == nil {
			// Nothing was sent: it is left to a worker that can read it.
			_, released := s.Release(ctx, id, index, b.Token)
			err = errors.Join(err, released)
		}
		return nil, err
	}
	b.Earlier = int(atoi(answer[10]))
	if answer[11] != "" {
		if b.Previous, err = s.openResult(id, index, answer[11]); err != nil {
			return nil, err
		}
	}
	if answer[9] != "" {
		if b.Group, err = s.openGroup(id, index, answer[9]); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// heldByOther reports whether another worker, which is alive, can still have an
// action in flight that it began at that time.
func (s *Store) heldByOther(ctx context.Context, worker, holder string, began time.Time) (bool, error) {
	if holder == worker {
		return false, nil
	}
	now, err := s.now(ctx)
	if err != nil || now.Sub(began) > taskTimeout {
		return false, err
	}
	alive, err := s.alive(ctx)
	return slices.Contains(alive, holder), err
}

// insist repeats a step whose answer may have been lost. Redis may have done it
// all the same, and who does not know that his action is begun would take it for
// another's.
func (s *Store) insist(ctx context.Context, step func() ([]string, error)) ([]string, error) {
	deadline := time.Now().Add(beginPatience)
	for {
		answer, err := step()
		if away := (*batch.UnavailableError)(nil); err == nil || !errors.As(err, &away) || time.Now().After(deadline) {
			return answer, err
		}
		select {
		case <-ctx.Done():
			return answer, err
		case <-time.After(beginPause):
		}
	}
}

func (s *Store) openResult(id string, index int, sealed string) (*batch.Result, error) {
	opened, err := s.seals.open(place(id, "r", index), []byte(sealed))
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
	opened, err := s.seals.open(place(id, "a", index), []byte(sealed))
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
	encoded, err := r.MarshalJSON()
	if err != nil {
		return err
	}
	answer, err := s.run(ctx, s.steps.finish, keysOf(id).step(),
		id, doneChannel, index, string(token), state, s.seals.seal(place(id, "r", index), encoded))
	if err != nil {
		return fmt.Errorf("finish action %d of batch %s: %w", index, id, err)
	}
	s.tellIf(ctx, id, answer[1])
	return verdictError(answer[0])
}

// Release implements [batch.Ledger].
func (s *Store) Release(ctx context.Context, id string, index int, token batch.Token) (bool, error) {
	answer, err := s.run(ctx, s.steps.release, keysOf(id).step(), id, doneChannel, index, string(token))
	if err != nil {
		return false, fmt.Errorf("release action %d of batch %s: %w", index, id, err)
	}
	s.tellIf(ctx, id, answer[1])
	return answer[0] == "released", verdictError(answer[0])
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
	return entry{token: parts[0], started: fromMillis(parts[3]), worker: parts[5]}
}

// attemptsIn reads the attempts from a ledger entry; see lua/lib.lua.
func attemptsIn(entry string) int {
	_, rest, _ := strings.Cut(entry, "|")
	attempts, _, _ := strings.Cut(rest, "|")
	return int(atoi(attempts))
}
