package upload

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/rdb"
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

// stageGroups stages the records of the upload's groups like actions.
func (u *upload) stageGroups(ctx context.Context) error {
	for from := 0; from < len(u.groups.order); from += chunkActions {
		to := min(from+chunkActions, len(u.groups.order))
		args := []any{rdb.Millis(stagedTTL)}
		for _, g := range u.groups.order[from:to] {
			sealed, err := u.s.batches.Codec.SealGroup(u.id, g)
			if err != nil {
				return err
			}
			var members strings.Builder
			for i, m := range g.Members {
				members.WriteString(","[:min(i, 1)] + strconv.Itoa(m.Index))
			}
			args = append(args, g.Leader(), members.String()+"|0|"+string(sealed))
		}
		answer, err := u.s.db.Run(ctx, Steps.Stage, []string{u.keys.Groups, u.keys.Meta}, args...)
		if err != nil {
			return fmt.Errorf("stage groups: %w", err)
		}
		if answer[0] != strconv.Itoa(to) {
			return batch.ErrUploadLost
		}
	}
	return nil
}
