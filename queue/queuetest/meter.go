package queuetest

import (
	"context"
	"sync"

	"github.com/redis/go-redis/v9"
)

// Meter is a hook that counts the exchanges with Redis, and the bytes of requests and replies.
type Meter struct {
	mu               sync.Mutex
	exchanges, bytes int
}

// NewMeter returns a meter of a store.
func NewMeter(b *Bundle) *Meter {
	m := &Meter{}
	b.DB.Client.AddHook(m)
	return m
}

// Reset returns what was counted since the last call.
func (m *Meter) Reset() (exchanges, bytes int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	exchanges, bytes = m.exchanges, m.bytes
	m.exchanges, m.bytes = 0, 0
	return exchanges, bytes
}

func (m *Meter) count(cmds ...redis.Cmder) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.exchanges++
	for _, cmd := range cmds {
		m.bytes += len(cmd.String()) // with its reply
	}
}

// DialHook implements [redis.Hook].
func (m *Meter) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessHook implements [redis.Hook].
func (m *Meter) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		m.count(cmd)
		return err
	}
}

// ProcessPipelineHook implements [redis.Hook].
func (m *Meter) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		m.count(cmds...)
		return err
	}
}
