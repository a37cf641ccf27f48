package queuetest

import (
	"context"
	"strings"
	"sync/atomic"

	"github.com/redis/go-redis/v9"
)

// Mute is a hook that fails commands that contain a text, while it is on: the store neither sends nor
// repeats them, as if its process had died.
type Mute struct {
	Text string
	On   atomic.Bool
}

// DialHook implements [redis.Hook].
func (m *Mute) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessHook implements [redis.Hook].
func (m *Mute) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		return m.around(func() error { return next(ctx, cmd) }, cmd)
	}
}

// ProcessPipelineHook implements [redis.Hook].
func (m *Mute) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		return m.around(func() error { return next(ctx, cmds) }, cmds...)
	}
}

func (m *Mute) around(next func() error, cmds ...redis.Cmder) error {
	muted := false
	for _, cmd := range cmds {
		muted = muted || m.On.Load() && strings.Contains(cmd.String(), m.Text)
	}
	if !muted {
		return next()
	}
	for _, cmd := range cmds {
		cmd.SetErr(redis.ErrClosed)
	}
	return redis.ErrClosed
}
