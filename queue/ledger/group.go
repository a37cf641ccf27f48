package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/batches"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/quotas"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/seal"
)

// Member implements [batch.GroupLedger].
func (l *Ledger) Member(ctx context.Context, id string, index int) (*batch.Action, error) {
	ctx, cancel := l.db.WithTimeout(ctx)
	defer cancel()
	sealed, err := l.db.Client.HGet(ctx, keys.KeysOf(id).Actions, strconv.Itoa(index)).Result()
	if errors.Is(err, redis.Nil) {
		return nil, batch.ErrNotFound
	}
	if err != nil {
		return nil, rdb.MapError(ctx, err)
	}
	a, err := l.batches.Codec.OpenAction(id, index, sealed)
	if err != nil {
		return nil, err
	}
	return &a, nil
}

// SaveGroup implements [batch.GroupLedger].
func (l *Ledger) SaveGroup(ctx context.Context, id string, token batch.Token, g *batch.Group, staged *batch.Result) (time.Time, error) {
	sealed, err := l.batches.Codec.SealGroup(id, g)
	if err != nil {
		return time.Time{}, err
	}
	args := []any{g.Leader(), string(token), g.Seq, sealed, "", "", "", ""}
	if g.Paused {
		args[6] = "1"
	}
	try := l.rooms.Store(id)
	for {
		var noted []byte
		if staged != nil {
			noted = l.groups.seal(id, staged.Index, staged)
			args[4], args[5], args[7] = staged.Index, noted, try.Forced
			l.attempts.addStaged(id, g.Leader(), string(token), staged.Index, noted)
		}
		answer, err := l.db.Run(ctx, Steps.SaveGroup, keys.KeysOf(id).Step(), args...)
		if err != nil {
			return time.Time{}, fmt.Errorf("save group %d of batch %s: %w", g.Leader(), id, err)
		}
		if answer[0] == quotas.NoRoom {
			if err := try.Again(ctx, int64(len(noted)), answer[1:], staged); err != nil {
				return time.Time{}, err
			}
			continue
		}
		err = batches.VerdictError(answer[0])
		if l.Restorer.restored(ctx, id, g.Leader(), token, err) {
			continue
		}
		if g.Paused || err != nil {
			l.attempts.abandon(id, g.Leader(), string(token))
		}
		return rdb.FromMillis(answer[1]), err
	}
}

// errForgotten says that Redis lacks results that a worker saved with the group's record.
var errForgotten = errors.New("results of the group are missing in Redis")

// FinishGroup implements [batch.GroupLedger].
func (l *Ledger) FinishGroup(ctx context.Context, id string, token batch.Token, g *batch.Group, results []batch.Result) error {
	leader := g.Leader()
	try := l.rooms.Store(id)
	for {
		members, err := l.groups.memberArgs(id, g, results)
		if err != nil {
			return err
		}
		whole := l.groups.wholeArgs(id, g, results, members, l.attempts.staged(id, leader, string(token)))
		err = l.groups.finish(ctx, id, leader, string(token), try.Forced, members)
		if errors.Is(err, errForgotten) || l.Restorer.restored(ctx, id, leader, token, err) {
			err = l.groups.finish(ctx, id, leader, string(token), try.Forced, whole)
		}
		if lacks, ok := errors.AsType[*roomError](err); ok {
			if err := try.Again(ctx, lacks.bytes, lacks.answer, pointers(results)...); err != nil {
				return err
			}
			continue
		}
		l.attemptEnded(id, leader, token, err, rdb.Text(whole[1]), nil, whole)
		return err
	}
}

// seal seals a result.
func (g *groups) seal(id string, index int, r *batch.Result) []byte {
	return g.seals.Seal(seal.Label{ID: id, Kind: "r", Index: index}, r.Encode())
}

// pointers returns pointers to the results that have content.
func pointers(results []batch.Result) (all []*batch.Result) {
	for i := range results {
		if results[i].ID != "" {
			all = append(all, &results[i])
		}
	}
	return all
}

// roomError means that a batch has no room for the results of a group.
type roomError struct {
	bytes  int64
	answer []string // for [quotas.Storing.Again]
}

// Error implements error.
func (e *roomError) Error() string {
	return fmt.Sprintf("the batch has no room for %d bytes of results", e.bytes)
}

// memberArgs returns the index, state and sealed result of each group member, in order. A member
// whose result a worker has already saved gets no result: the step uses the saved one.
func (g *groups) memberArgs(id string, group *batch.Group, results []batch.Result) ([]any, error) {
	args := make([]any, 0, 3*len(results))
	for i := range results {
		r, index := &results[i], group.Members[i].Index
		state, err := batches.StateOf(r.Outcome)
		if err != nil {
			return nil, err
		}
		var sealed []byte
		if r.ID != "" {
			sealed = g.seal(id, index, r)
		}
		args = append(args, index, state, sealed)
	}
	return args, nil
}

// wholeArgs returns the arguments that memberArgs returned, with the missing results. It takes them
// from staged, by index. Of a result that another worker saved, this process knows only the outcome.
func (g *groups) wholeArgs(id string, group *batch.Group, results []batch.Result, args []any, staged map[int][]byte) []any {
	whole := slices.Clone(args)
	for i := range results {
		if results[i].ID != "" {
			continue
		}
		m := group.Members[i]
		sealed := staged[m.Index]
		if sealed == nil {
			left := &batch.Result{ID: m.ID, Index: m.Index, Outcome: results[i].Outcome}
			sealed = g.seal(id, m.Index, left)
		}
		whole[3*i+2] = sealed
	}
	return whole
}

// finish ends all members of a group in one step. members has the index, state and sealed result
// of each member, in order. forced is "1" if the results do not need room; otherwise finish may return a [*roomError].
func (g *groups) finish(ctx context.Context, id string, leader int, token, forced string, members []any) error {
	args := append([]any{id, keys.DoneChannel, leader, token, forced}, members...)
	answer, err := g.db.Run(ctx, Steps.FinishGroup, keys.KeysOf(id).Step(), args...)
	if err != nil {
		g.batches.Doubts.AddIf(id, err)
		return fmt.Errorf("finish group %d of batch %s: %w", leader, id, err)
	}
	if answer[0] == quotas.NoRoom && len(answer) > 2 {
		return &roomError{rdb.Atoi(answer[2]), answer[3:]}
	}
	g.batches.Outbox.EnqueueIf(ctx, id, answer[1])
	if answer[0] == "forgotten" {
		return errForgotten
	}
	return batches.VerdictError(answer[0])
}
