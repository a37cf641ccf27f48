package queue

import (
	"context"
	"fmt"
	"strings"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/crash"
)

// Retry implements [batch.Store].
func (s *Store) Retry(ctx context.Context, owner, id string, outcomes []batch.Outcome) (*batch.Batch, error) {
	b, err := s.Get(ctx, owner, id, 0)
	if err != nil {
		return nil, err
	}
	var again strings.Builder
	for _, o := range outcomes {
		state, err := stateOf(o)
		if err != nil {
			return nil, err
		}
		again.WriteString(state)
		if o == batch.Unknown {
			again.WriteByte(overdueState)
		}
	}
	// The sweeper has to know of it before it runs: it brings what a crash leaves
	// waiting.
	if err := s.reopen(ctx, id); err != nil {
		return nil, err
	}
	crash.At(crash.Reopened)
	k := keysOf(id)
	answer, err := s.run(ctx, s.steps.retry, append(k.step(), k.deliveries), owner, again.String())
	if err != nil {
		return nil, fmt.Errorf("retry batch %s: %w", id, err)
	}
	switch answer[0] {
	case "ok":
	case "gone":
		return nil, batch.ErrNotFound
	case "not_terminal":
		return nil, batch.ErrNotTerminal
	case "groups":
		return nil, batch.ErrGrouped
	default:
		return nil, batch.ErrNothingToRetry
	}
	crash.At(crash.Retried)
	s.withdraw(ctx, id, answer[3])
	// Before anything else can fail: what waits without a task is found only later.
	m := map[string]string{"target": b.Target, "lane": string(b.Lane), "round": answer[2]}
	s.enqueueBehind(ctx, int(atoi(answer[1])), func(ctx context.Context) {
		for cursor := 0; ; {
			var next int
			err := s.insist(ctx, func() (err error) {
				_, next, err = s.enqueueWaiting(ctx, id, m, cursor)
				return err
			})
			if err != nil {
				s.log.WarnContext(ctx, "retry broke off, the sweeper will finish it", "batch", id, "error", err)
			}
			if err != nil || next == 0 {
				return
			}
			cursor = next
		}
	})
	err = s.insist(ctx, func() (err error) { // asked for once more, it would be refused
		b, err = s.Get(ctx, owner, id, 0)
		return err
	})
	return b, err
}
