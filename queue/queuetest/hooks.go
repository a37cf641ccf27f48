package queuetest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// LostReplies is a hook that loses the answers to commands: Redis has executed them, and the caller gets
// [net.ErrClosed].
type LostReplies struct {
	Mu   sync.Mutex // guards Left
	Left int        // the number of answers to lose
	Only string     // a text that the commands contain
}

// lose reports whether to lose the answer to a command.
func (l *LostReplies) lose(cmd redis.Cmder) bool {
	l.Mu.Lock()
	defer l.Mu.Unlock()
	if l.Left == 0 || !strings.Contains(cmd.String(), l.Only) {
		return false
	}
	l.Left--
	return true
}

// lostReply is a command whose connection breaks before its reply.
type lostReply struct{ redis.Cmder }

// SetErr implements [redis.Cmder].
func (l lostReply) SetErr(err error) {
	if err == nil {
		err = net.ErrClosed
	}
	l.Cmder.SetErr(err)
}

// DialHook implements [redis.Hook].
func (l *LostReplies) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessHook implements [redis.Hook].
func (l *LostReplies) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if err == nil && l.lose(cmd) {
			cmd.SetErr(net.ErrClosed)
			return net.ErrClosed
		}
		return err
	}
}

// ProcessPipelineHook implements [redis.Hook].
func (l *LostReplies) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		sent := slices.Clone(cmds)
		for i, cmd := range sent {
			if l.lose(cmd) {
				sent[i] = lostReply{cmd}
			}
		}
		return next(ctx, sent)
	}
}

// RefusedCommands is a hook that fails single commands before they are sent.
type RefusedCommands struct {
	Step string      // a text that the commands contain, such as the digest of a step
	Over atomic.Bool // set to let them pass again
}

// DialHook implements [redis.Hook].
func (r *RefusedCommands) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessHook implements [redis.Hook].
func (r *RefusedCommands) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if !r.Over.Load() && strings.Contains(cmd.String(), r.Step) {
			cmd.SetErr(net.ErrClosed)
			return net.ErrClosed
		}
		return next(ctx, cmd)
	}
}

// ProcessPipelineHook implements [redis.Hook].
func (r *RefusedCommands) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// Deadlines is a hook that records the deadlines of single commands.
type Deadlines struct {
	Step string      // a text that the commands contain, such as the digest of a step
	At   []time.Time // one for each of these commands; not for concurrent use
}

// DialHook implements [redis.Hook].
func (d *Deadlines) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessHook implements [redis.Hook].
func (d *Deadlines) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if strings.Contains(cmd.String(), d.Step) {
			at, _ := ctx.Deadline()
			d.At = append(d.At, at)
		}
		return next(ctx, cmd)
	}
}

// ProcessPipelineHook implements [redis.Hook].
func (d *Deadlines) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// FailedPipelines is a hook that fails pipelines before they are sent.
type FailedPipelines struct {
	mu   sync.Mutex
	Left int // the number of pipelines to fail
}

// DialHook implements [redis.Hook].
func (f *FailedPipelines) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessHook implements [redis.Hook].
func (f *FailedPipelines) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

// ProcessPipelineHook implements [redis.Hook].
func (f *FailedPipelines) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		f.mu.Lock()
		fails := f.Left > 0
		if fails {
			f.Left--
		}
		f.mu.Unlock()
		if !fails {
			return next(ctx, cmds)
		}
		for _, cmd := range cmds {
			cmd.SetErr(context.DeadlineExceeded)
		}
		return context.DeadlineExceeded
	}
}

// CommandCounter is a hook that counts the commands of pipelines that have a name and first argument.
type CommandCounter struct {
	Part string // both, with a space between
	N    atomic.Int32
}

// DialHook implements [redis.Hook].
func (c *CommandCounter) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessHook implements [redis.Hook].
func (c *CommandCounter) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

// ProcessPipelineHook implements [redis.Hook].
func (c *CommandCounter) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		for _, cmd := range cmds {
			if fmt.Sprint(cmd.Args()[0], " ", cmd.Args()[1]) == c.Part {
				c.N.Add(1)
			}
		}
		return next(ctx, cmds)
	}
}

// Exchanges is a hook that records which commands were sent together. It can also fail commands after
// Redis has executed them.
type Exchanges struct {
	mu   sync.Mutex
	All  []string // for each exchange its commands, one a line
	Fail string   // a text of the commands to fail; empty for none
}

func (e *Exchanges) note(err error, cmds ...redis.Cmder) error {
	var text strings.Builder
	for _, cmd := range cmds {
		line := fmt.Sprintln(cmd.Args()...)
		text.WriteString(line)
		if e.Fail != "" && strings.Contains(line, e.Fail) {
			err = errors.New("ERR refused")
			cmd.SetErr(err)
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.All = append(e.All, text.String())
	return err
}

// With returns the exchanges that contain a text.
func (e *Exchanges) With(text string) (found []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, x := range e.All {
		if strings.Contains(x, text) {
			found = append(found, x)
		}
	}
	return found
}

// DialHook implements [redis.Hook].
func (e *Exchanges) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessHook implements [redis.Hook].
func (e *Exchanges) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		return e.note(next(ctx, cmd), cmd)
	}
}

// ProcessPipelineHook implements [redis.Hook].
func (e *Exchanges) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		return e.note(next(ctx, cmds), cmds...)
	}
}

// noTransactions is a hook that fails the test if batchd sends a transaction. If a server between batchd and Redis refuses
// EXEC, the connection stays in the transaction, and Redis queues what is sent over it next, and executes nothing.
type noTransactions struct{ t *testing.T }

// DialHook implements [redis.Hook].
func (noTransactions) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessHook implements [redis.Hook].
func (noTransactions) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

// ProcessPipelineHook implements [redis.Hook].
func (h noTransactions) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if len(cmds) > 0 && cmds[0].Name() == "multi" {
			h.t.Errorf("a transaction: write a step in Lua instead of %v", cmds)
		}
		return next(ctx, cmds)
	}
}
