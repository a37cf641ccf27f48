package ledger

import (
	"context"
	"errors"
	"fmt"
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
func (s *Ledger) Member(ctx context.Context, id string, index int) (*batch.Action, error) {
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	sealed, err := s.db.Client.HGet(ctx, keys.KeysOf(id).Actions, strconv.Itoa(index)).Result()
	if errors.Is(err, redis.Nil) {
		return nil, batch.ErrNotFound
	}
	if err != nil {
		return nil, rdb.MapError(ctx, err)
	}
	a, err := s.batches.Codec.OpenAction(id, index, sealed)
	if err != nil {
		return nil, err
	}
	return &a, nil
}

// SaveGroup implements [batch.GroupLedger].
func (s *Ledger) SaveGroup(ctx context.Context, id string, token batch.Token, g *batch.Group, staged *batch.Result) (time.Time, error) {
	sealed, err := s.batches.Codec.SealGroup(id, g)
	if err != nil {
		return time.Time{}, err
	}
	args := []any{g.Leader(), string(token), g.Seq, sealed, "", "", ""}
	if g.Paused {
		args[6] = "1"
	}
	if staged != nil {
		noted := s.seals.Seal(seal.Label{ID: id, Kind: "r", Index: staged.Index}, staged.Encode())
		args[4], args[5] = staged.Index, noted
		s.attempts.addStaged(id, g.Leader(), string(token), staged.Index, noted)
	}
	answer, err := s.db.Run(ctx, Steps.SaveGroup, keys.KeysOf(id).Step(), args...)
	if err != nil {
		return time.Time{}, fmt.Errorf("note group %d of batch %s: %w", g.Leader(), id, err)
	}
	err = batches.VerdictError(answer[0])
	if s.Restorer.restored(ctx, id, g.Leader(), token, err) {
		return s.SaveGroup(ctx, id, token, g, staged)
	}
	if g.Paused || err != nil {
		s.attempts.abandon(id, g.Leader(), string(token))
	}
	return rdb.FromMillis(answer[1]), err
}

// errForgotten says that Redis has not the results that were noted of a group.
var errForgotten = errors.New("results of the group are forgotten")

// FinishGroup implements [batch.GroupLedger].
func (s *Ledger) FinishGroup(ctx context.Context, id string, token batch.Token, g *batch.Group, results []batch.Result) error {
	leader := g.Leader()
	members, err := s.groups.memberArgs(id, g, results, nil)
	if err != nil {
		return err
	}
	whole, err := s.groups.memberArgs(id, g, results, s.attempts.staged(id, leader, string(token)))
	if err != nil {
		return err
	}
	err = s.groups.finish(ctx, id, leader, string(token), members)
	if errors.Is(err, errForgotten) || s.Restorer.restored(ctx, id, leader, token, err) {
		err = s.groups.finish(ctx, id, leader, string(token), whole)
	}
	s.attemptEnded(id, leader, token, err, rdb.Text(whole[1]), nil, whole)
	return err
}

// membersEnd returns index, state and sealed result of each member of a group in turn. For
// results that were noted it takes the given ones, or leaves them empty if there are none.
func (s *groups) memberArgs(id string, g *batch.Group, results []batch.Result, noted map[int][]byte) ([]any, error) {
	args := make([]any, 0, 3*len(results))
	for i := range results {
		r, index := &results[i], g.Members[i].Index
		state, err := batches.StateOf(r.Outcome)
		if err != nil {
			return nil, err
		}
		sealed := noted[index]
		switch {
		case r.ID != "":
			sealed = s.seals.Seal(seal.Label{ID: id, Kind: "r", Index: index}, r.Encode())
		case noted != nil && sealed == nil: // another worker noted it: what is left of it is how it ended
			left := &batch.Result{ID: g.Members[i].ID, Index: index, Outcome: r.Outcome}
			sealed = s.seals.Seal(seal.Label{ID: id, Kind: "r", Index: index}, left.Encode())
		}
		args = append(args, index, state, sealed)
	}
	return args, nil
}

// endGroup ends all members of a group: index, state and sealed result of each in turn.
func (s *groups) finish(ctx context.Context, id string, leader int, token string, members []any) error {
	args := append([]any{id, keys.DoneChannel, leader, token}, members...)
	answer, err := s.db.Run(ctx, Steps.FinishGroup, keys.KeysOf(id).Step(), args...)
	if err != nil {
		s.batches.Doubts.AddIf(id, err)
		return fmt.Errorf("conclude group %d of batch %s: %w", leader, id, err)
	}
	s.batches.Outbox.EnqueueIf(ctx, id, answer[1])
	if answer[0] == "forgotten" {
		return errForgotten
	}
	return batches.VerdictError(answer[0])
}
