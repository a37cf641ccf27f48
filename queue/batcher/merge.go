package batcher

import (
	"cmp"
	"context"
	"slices"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
)

// mergedCall is one run of a step for some actions of one batch.
type mergedCall struct {
	calls   []*Call
	cmd     *redis.Cmd
	actions *redis.SliceCmd // nil unless the calls read their actions
}

// merge puts calls that need the same step on the same batch together, by ascending index. An
// action that comes twice gets a second run of the step.
func merge(calls []*Call) []*mergedCall {
	slices.SortStableFunc(calls, func(a, b *Call) int {
		if a.ID != b.ID {
			return cmp.Compare(a.ID, b.ID)
		}
		if a.Step != b.Step {
			return cmp.Compare(a.Step.Hash(), b.Step.Hash())
		}
		return a.Index - b.Index
	})
	var merged []*mergedCall
	for _, c := range calls {
		if n := len(merged); n > 0 {
			m := merged[n-1]
			last := m.calls[len(m.calls)-1]
			if last.ID == c.ID && last.Step == c.Step && last.Index != c.Index && slices.Equal(last.SharedArgs, c.SharedArgs) {
				m.calls = append(m.calls, c)
				continue
			}
		}
		merged = append(merged, &mergedCall{calls: []*Call{c}})
	}
	return merged
}

// add adds the run of the step to a pipeline, and the reading of the actions if the calls want
// them. The actions are read beside the step, because Lua would copy and hash them.
func (m *mergedCall) add(ctx context.Context, pipe redis.Pipeliner) {
	first := m.calls[0]
	k := keys.KeysOf(first.ID)
	m.cmd = pipe.EvalSha(ctx, first.Step.Hash(), k.Step(), m.args()...)
	if first.ReadAction {
		m.actions = pipe.HMGet(ctx, k.Actions, rdb.FieldsOf(m.indexes())...)
	}
}

func (m *mergedCall) args() []any {
	first := m.calls[0]
	args := make([]any, 0, 2+len(first.SharedArgs)+len(m.calls)*(1+len(first.Args)))
	args = append(args, first.ID, keys.DoneChannel)
	args = append(args, first.SharedArgs...)
	for _, c := range m.calls {
		args = append(args, c.Index)
		args = append(args, c.Args...)
	}
	return args
}

func (m *mergedCall) indexes() []int {
	indexes := make([]int, len(m.calls))
	for i, c := range m.calls {
		indexes[i] = c.Index
	}
	return indexes
}

// read reads the replies of the pipeline, and runs the step again if Redis did not know its
// script.
func (m *mergedCall) read(ctx context.Context, db *rdb.DB) error {
	m.cmd = db.AnswerOf(ctx, m.calls[0].Step, m.cmd)
	err := m.cmd.Err()
	if err == nil && m.actions != nil {
		err = m.actions.Err()
	}
	parts, _ := m.cmd.Val().([]any)
	if err == nil && (len(parts) < len(m.calls) || m.actions != nil && len(m.actions.Val()) != len(m.calls)) {
		err = rdb.ErrAnswer
	}
	return rdb.MapError(ctx, err)
}

// reply gives each call its part of the step's reply, or the error. The reply ends with one
// element for each action.
func (m *mergedCall) reply(err error) {
	parts, _ := m.cmd.Val().([]any)
	var actions []any
	if m.actions != nil {
		actions = m.actions.Val()
	}
	if err != nil {
		for _, c := range m.calls {
			c.err = err
		}
		return
	}
	shared := parts[:len(parts)-len(m.calls)]
	for i, c := range m.calls {
		c.SharedReply, c.First = shared, i == 0
		if actions != nil {
			c.Action = actions[i]
		}
		switch own := parts[len(shared)+i].(type) {
		case int64:
			c.Reply = nil
		case []any:
			c.Reply = rdb.Texts(own)
		default:
			c.Reply = []string{rdb.Text(own)}
		}
	}
}
