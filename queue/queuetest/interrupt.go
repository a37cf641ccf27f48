package queuetest

import (
	"context"
	"strings"
	"sync/atomic"

	"github.com/redis/go-redis/v9"
)

// interlude is the hook of Interrupt.
type interlude struct {
	text  string
	after bool
	done  atomic.Bool // do was called
	do    func()
}

// Interrupt calls do once: before the store sends the first command that contains a text, or
// after Redis's reply to it. The test fails if no command contained the text.
func (b *Bundle) Interrupt(text string, after bool, do func()) {
	b.T.Helper()
	hook := &interlude{text: text, after: after, do: do}
	b.DB.Client.AddHook(hook)
	b.T.Cleanup(func() {
		if !hook.done.Load() && !b.T.Failed() && !b.T.Skipped() {
			b.T.Errorf("no command contained %q, so nothing was interrupted", text)
		}
	})
}

func (i *interlude) around(next func() error, cmds ...redis.Cmder) error {
	meets := false
	for _, cmd := range cmds {
		meets = meets || strings.Contains(cmd.String(), i.text)
	}
	if !meets {
		return next()
	}
	if !i.after && i.done.CompareAndSwap(false, true) {
		i.do()
	}
	err := next()
	if i.after && i.done.CompareAndSwap(false, true) {
		i.do()
	}
	return err
}

func (i *interlude) DialHook(next redis.DialHook) redis.DialHook { return next }

func (i *interlude) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		return i.around(func() error { return next(ctx, cmd) }, cmd)
	}
}

func (i *interlude) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		return i.around(func() error { return next(ctx, cmds) }, cmds...)
	}
}
