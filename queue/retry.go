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
	if _, err := s.Get(ctx, owner, id, 0); err != nil {
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
	b, err := s.Get(ctx, owner, id, 0)
	if err != nil {
		return nil, err
	}
	m := map[string]string{"target": b.Target, "lane": string(b.Lane), "round": answer[2]}
	hand := func(ctx context.Context) {
		for cursor := 0; ; {
			_, next, err := s.enqueueWaiting(ctx, id, m, cursor)
			if err != nil {
				s.log.WarnContext(ctx, "retry broke off, the sweeper will finish it", "batch", id, "error", err)
			}
			if err != nil || next == 0 {
				return
			}
			cursor = next
		}
	}
	if b.Counts.Pending <= inlineActions {
		hand(context.WithoutCancel(ctx))
	} else {
		s.fanouts.wg.Go(func() { hand(s.fanouts.ctx) })
	}
	return b, nil
}
