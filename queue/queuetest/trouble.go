package queuetest

import (
	"context"
	"net"
	"slices"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
)

// LostReplies is a hook that loses the answers to a number of commands: Redis
// has done them, and the caller does not know.
type LostReplies struct {
	Mu   sync.Mutex
	Left int
	Only string // a text that the command must hold
}

// lose reports whether the answer to a command is to be lost.
func (l *LostReplies) lose(cmd redis.Cmder) bool {
	l.Mu.Lock()
	defer l.Mu.Unlock()
	if l.Left == 0 || !strings.Contains(cmd.String(), l.Only) {
		return false
	}
	l.Left--
	return true
}

// lostReply is a command whose connection breaks in front of its reply.
type lostReply struct{ redis.Cmder }

func (l lostReply) SetErr(err error) {
	if err == nil {
		err = net.ErrClosed
	}
	l.Cmder.SetErr(err)
}

func (l *LostReplies) DialHook(next redis.DialHook) redis.DialHook { return next }

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
