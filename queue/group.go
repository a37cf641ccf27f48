package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/seal"
)

// stagedGroups are the groups of an upload.
type stagedGroups struct {
	order  []*batch.Group
	byName map[string]*batch.Group
}

func (g *stagedGroups) add(a *batch.Action, index int) {
	if a.Group == "" {
		return
	}
	group := g.byName[a.Group]
	if group == nil {
		if g.byName == nil {
			g.byName = make(map[string]*batch.Group)
		}
		group = &batch.Group{Name: a.Group}
		g.byName[a.Group] = group
		g.order = append(g.order, group)
	}
	group.Members = append(group.Members, batch.Member{Index: index, ID: batch.ActionID(a.ID, index)})
}

// states returns the state of each of n actions, or nothing if there is no group.
func (g *stagedGroups) states(n int) []byte {
	if len(g.order) == 0 {
		return nil
	}
	states := make([]byte, n)
	for i := range states {
		states[i] = 'p'
	}
	for _, group := range g.order {
		for _, m := range group.Members[1:] {
			states[m.Index] = 'w'
		}
	}
	return states
}

// stageGroups stages the records of the upload's groups, as actions are.
func (u *upload) stageGroups(ctx context.Context) error {
	for from := 0; from < len(u.groups.order); from += chunkActions {
		to := min(from+chunkActions, len(u.groups.order))
		args := []any{rdb.Millis(stagedTTL)}
		for _, g := range u.groups.order[from:to] {
			sealed, err := u.s.sealGroup(u.id, g)
			if err != nil {
				return err
			}
			var members strings.Builder
			for i, m := range g.Members {
				members.WriteString(","[:min(i, 1)] + strconv.Itoa(m.Index))
			}
			args = append(args, g.Leader(), members.String()+"|0|"+string(sealed))
		}
		answer, err := u.s.db.Run(ctx, u.s.steps.stage, []string{u.keys.groups, u.keys.meta}, args...)
		if err != nil {
			return fmt.Errorf("stage groups: %w", err)
		}
		if answer[0] != strconv.Itoa(to) {
			return batch.ErrUploadLost
		}
	}
	return nil
}

func (s *Store) sealGroup(id string, g *batch.Group) ([]byte, error) {
	encoded, err := json.Marshal(g)
	if err != nil {
		return nil, fmt.Errorf("encode group %d of batch %s: %w", g.Leader(), id, err)
	}
	return s.seals.Seal(seal.Label{ID: id, Kind: "g", Index: g.Leader()}, encoded), nil
}

func (s *Store) openGroup(id string, leader int, sealed string) (*batch.Group, error) {
	opened, err := s.seals.Open(seal.Label{ID: id, Kind: "g", Index: leader}, []byte(sealed))
	if err != nil {
		return nil, fmt.Errorf("read group %d of batch %s: %w", leader, id, err)
	}
	g := &batch.Group{}
	if err := json.Unmarshal(opened, g); err != nil {
		return nil, fmt.Errorf("read group %d of batch %s: %w", leader, id, err)
	}
	return g, nil
}

// Member implements [batch.GroupLedger].
func (s *Store) Member(ctx context.Context, id string, index int) (*batch.Action, error) {
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	sealed, err := s.db.Client.HGet(ctx, keysOf(id).actions, strconv.Itoa(index)).Bytes()
	if errors.Is(err, redis.Nil) {
		return nil, batch.ErrNotFound
	}
	if err != nil {
		return nil, rdb.MapError(ctx, err)
	}
	opened, err := s.seals.Open(seal.Label{ID: id, Kind: "a", Index: index}, sealed)
	if err != nil {
		return nil, fmt.Errorf("read action %d of batch %s: %w", index, id, err)
	}
	a, err := decodeAction(opened)
	if err != nil {
		return nil, fmt.Errorf("read action %d of batch %s: %w", index, id, err)
	}
	return &a, nil
}

// Note implements [batch.GroupLedger].
func (s *Store) Note(ctx context.Context, id string, token batch.Token, g *batch.Group, staged *batch.Result) (time.Time, error) {
	sealed, err := s.sealGroup(id, g)
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
		s.attempts.stage(id, g.Leader(), string(token), staged.Index, noted)
	}
	answer, err := s.db.Run(ctx, s.steps.note, keysOf(id).step(), args...)
	if err != nil {
		return time.Time{}, fmt.Errorf("note group %d of batch %s: %w", g.Leader(), id, err)
	}
	err = verdictError(answer[0])
	if s.restored(ctx, id, g.Leader(), token, err) {
		return s.Note(ctx, id, token, g, staged)
	}
	if g.Paused || err != nil {
		s.attempts.abandon(id, g.Leader(), string(token))
	}
	return rdb.FromMillis(answer[1]), err
}

// errForgotten says that Redis has not the results that were noted of a group.
var errForgotten = errors.New("results of the group are forgotten")

// Conclude implements [batch.GroupLedger].
func (s *Store) Conclude(ctx context.Context, id string, token batch.Token, g *batch.Group, results []batch.Result) error {
	leader := g.Leader()
	members, err := s.membersEnd(id, g, results, nil)
	if err != nil {
		return err
	}
	whole, err := s.membersEnd(id, g, results, s.attempts.staged(id, leader, string(token)))
	if err != nil {
		return err
	}
	err = s.endGroup(ctx, id, leader, string(token), members)
	if errors.Is(err, errForgotten) || s.restored(ctx, id, leader, token, err) {
		err = s.endGroup(ctx, id, leader, string(token), whole)
	}
	s.attemptEnded(id, leader, token, err, rdb.Text(whole[1]), nil, whole)
	return err
}

// membersEnd returns index, state and sealed result of each member of a group in turn. For
// results that were noted it takes the given ones, or leaves them empty if there are none.
func (s *Store) membersEnd(id string, g *batch.Group, results []batch.Result, noted map[int][]byte) ([]any, error) {
	args := make([]any, 0, 3*len(results))
	for i := range results {
		r, index := &results[i], g.Members[i].Index
		state, err := stateOf(r.Outcome)
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
func (s *Store) endGroup(ctx context.Context, id string, leader int, token string, members []any) error {
	args := append([]any{id, doneChannel, leader, token}, members...)
	answer, err := s.db.Run(ctx, s.steps.conclude, keysOf(id).step(), args...)
	if err != nil {
		s.doubtIf(id, err)
		return fmt.Errorf("conclude group %d of batch %s: %w", leader, id, err)
	}
	s.tellIf(ctx, id, answer[1])
	if answer[0] == "forgotten" {
		return errForgotten
	}
	return verdictError(answer[0])
}
