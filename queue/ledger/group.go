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
	args := []any{g.Leader(), string(token), g.Seq, sealed, "", "", ""}
	if g.Paused {
		args[6] = "1"
	}
	if staged != nil {
		noted := l.seals.Seal(seal.Label{ID: id, Kind: "r", Index: staged.Index}, staged.Encode())
		args[4], args[5] = staged.Index, noted
		l.attempts.addStaged(id, g.Leader(), string(token), staged.Index, noted)
	}
	answer, err := l.db.Run(ctx, Steps.SaveGroup, keys.KeysOf(id).Step(), args...)
	if err != nil {
		return time.Time{}, fmt.Errorf("save group %d of batch %s: %w", g.Leader(), id, err)
	}
	err = batches.VerdictError(answer[0])
	if l.Restorer.restored(ctx, id, g.Leader(), token, err) {
		return l.SaveGroup(ctx, id, token, g, staged)
	}
	if g.Paused || err != nil {
		l.attempts.abandon(id, g.Leader(), string(token))
	}
	return rdb.FromMillis(answer[1]), err
}

// errForgotten says that Redis lacks results that a worker saved with the group's record.
var errForgotten = errors.New("results of the group are missing in Redis")

// FinishGroup implements [batch.GroupLedger].
func (l *Ledger) FinishGroup(ctx context.Context, id string, token batch.Token, g *batch.Group, results []batch.Result) error {
	leader := g.Leader()
	members, err := l.groups.memberArgs(id, g, results)
	if err != nil {
		return err
	}
	whole := l.groups.wholeArgs(id, g, results, members, l.attempts.staged(id, leader, string(token)))
	err = l.groups.finish(ctx, id, leader, string(token), members)
	if errors.Is(err, errForgotten) || l.Restorer.restored(ctx, id, leader, token, err) {
		err = l.groups.finish(ctx, id, leader, string(token), whole)
	}
	l.attemptEnded(id, leader, token, err, rdb.Text(whole[1]), nil, whole)
	return err
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
			sealed = g.seals.Seal(seal.Label{ID: id, Kind: "r", Index: index}, r.Encode())
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
			sealed = g.seals.Seal(seal.Label{ID: id, Kind: "r", Index: m.Index}, left.Encode())
		}
		whole[3*i+2] = sealed
	}
	return whole
}

// finish ends all members of a group in one step. members has the index, state and sealed result
// of each member, in order.
func (g *groups) finish(ctx context.Context, id string, leader int, token string, members []any) error {
	args := append([]any{id, keys.DoneChannel, leader, token}, members...)
	answer, err := g.db.Run(ctx, Steps.FinishGroup, keys.KeysOf(id).Step(), args...)
	if err != nil {
		g.batches.Doubts.AddIf(id, err)
		return fmt.Errorf("finish group %d of batch %s: %w", leader, id, err)
	}
	g.batches.Outbox.EnqueueIf(ctx, id, answer[1])
	if answer[0] == "forgotten" {
		return errForgotten
	}
	return batches.VerdictError(answer[0])
}
