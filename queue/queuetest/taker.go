package queuetest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/redis/go-redis/v9"
)

// Seen collects the indexes that a handler was given.
type Seen struct {
	mu  sync.Mutex
	all []int
}

func (s *Seen) Add(index int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, index)
}

func (s *Seen) Sorted() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(slices.Values(s.all))
}

// Counted counts the commands that begin with a text.
type Counted struct {
	Part string
	N    atomic.Int32
}

func (c *Counted) DialHook(next redis.DialHook) redis.DialHook { return next }

func (c *Counted) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (c *Counted) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		for _, cmd := range cmds {
			if fmt.Sprint(cmd.Args()[0], " ", cmd.Args()[1]) == c.Part {
				c.N.Add(1)
			}
		}
		return next(ctx, cmds)
	}
}

// Failing makes pipelines fail before they are sent.
type Failing struct {
	mu   sync.Mutex
	Left int
}

func (f *Failing) DialHook(next redis.DialHook) redis.DialHook { return next }

func (f *Failing) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (f *Failing) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
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
