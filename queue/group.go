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
		args := []any{millis(stagedTTL)}
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
		answer, err := u.s.run(ctx, u.s.steps.stage, []string{u.keys.groups, u.keys.meta}, args...)
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
	return s.seals.seal(place{id, "g", g.Leader()}, encoded), nil
}

func (s *Store) openGroup(id string, leader int, sealed string) (*batch.Group, error) {
	opened, err := s.seals.open(place{id, "g", leader}, []byte(sealed))
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
	ctx, cancel := s.within(ctx)
	defer cancel()
	sealed, err := s.rdb.HGet(ctx, keysOf(id).actions, strconv.Itoa(index)).Bytes()
	if errors.Is(err, redis.Nil) {
		return nil, batch.ErrNotFound
	}
	if err != nil {
		return nil, mapError(ctx, err)
	}
	opened, err := s.seals.open(place{id, "a", index}, sealed)
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
		args[4], args[5] = staged.Index, s.seals.seal(place{id, "r", staged.Index}, staged.Encode())
	}
	answer, err := s.run(ctx, s.steps.note, keysOf(id).step(), args...)
	if err != nil {
		return time.Time{}, fmt.Errorf("note group %d of batch %s: %w", g.Leader(), id, err)
	}
	return fromMillis(answer[1]), verdictError(answer[0])
}

// Conclude implements [batch.GroupLedger].
func (s *Store) Conclude(ctx context.Context, id string, token batch.Token, g *batch.Group, results []batch.Result) error {
	args := []any{id, doneChannel, g.Leader(), string(token)}
	for i := range results {
		r, index := &results[i], g.Members[i].Index
		state, err := stateOf(r.Outcome)
		if err != nil {
			return err
		}
		var sealed []byte
		if r.ID != "" {
			sealed = s.seals.seal(place{id, "r", index}, r.Encode())
		}
		args = append(args, index, state, sealed)
	}
	answer, err := s.run(ctx, s.steps.conclude, keysOf(id).step(), args...)
	if err != nil {
		s.doubtIf(id, err) //nolint:contextcheck // it goes on behind the caller
		return fmt.Errorf("conclude group %d of batch %s: %w", g.Leader(), id, err)
	}
	s.tellIf(ctx, id, answer[1])
	return verdictError(answer[0])
}
