package queue

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"

	"github.com/batchd/batchd/internal/batch"
)

// Begin implements [batch.Ledger].
func (s *Store) Begin(ctx context.Context, id string, index int, worker string) (*batch.Begun, error) {
	if !known(id) {
		return &batch.Begun{Verdict: batch.Gone}, nil
	}
	token := rand.Text()[:16]
	answer, err := s.run(ctx, s.steps.begin, keysOf(id).step(), id, doneChannel, index, token, worker)
	if err != nil {
		return nil, fmt.Errorf("begin action %d of batch %s: %w", index, id, err)
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
	default:
		return nil, fmt.Errorf("begin action %d of batch %s: unknown answer %q", index, id, answer[0])
	}
	b.Token, b.Attempt = batch.Token(answer[1]), int(atoi(answer[2]))
	b.FirstAt, b.StartedAt = fromMillis(answer[3]), fromMillis(answer[4])
	b.Worker, b.ExpiresAt, b.Target = answer[5], fromMillis(answer[6]), answer[7]
	clear, err := s.seals.open(place(id, "a", index), []byte(answer[8]))
	if err != nil {
		return nil, fmt.Errorf("read action %d of batch %s: %w", index, id, err)
	}
	if b.Action, err = decodeAction(clear); err != nil {
		return nil, fmt.Errorf("read action %d of batch %s: %w", index, id, err)
	}
	return b, nil
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

// attemptsIn reads the attempts from a ledger entry; see lua/lib.lua.
func attemptsIn(entry string) int {
	_, rest, _ := strings.Cut(entry, "|")
	attempts, _, _ := strings.Cut(rest, "|")
	return int(atoi(attempts))
}
