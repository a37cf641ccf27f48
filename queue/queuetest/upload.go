package queuetest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/upload"
)

// Sent tells which commands were sent together, and fails those that hold a text
// although they were done.
type Sent struct {
	mu   sync.Mutex
	All  []string
	Fail string
}

func (e *Sent) note(err error, cmds ...redis.Cmder) error {
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

// With returns the exchanges that hold a text.
func (e *Sent) With(text string) (found []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, x := range e.All {
		if strings.Contains(x, text) {
			found = append(found, x)
		}
	}
	return found
}

func (e *Sent) DialHook(next redis.DialHook) redis.DialHook { return next }

func (e *Sent) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		return e.note(next(ctx, cmd), cmd)
	}
}

func (e *Sent) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		return e.note(next(ctx, cmds), cmds...)
	}
}

// Upload returns an upload with n actions that are not staged yet.
func (b *Bundle) Upload(n int) *upload.Upload {
	b.T.Helper()
	u, err := b.Open(b.Ctx, "me", "")
	require.NoError(b.T, err)
	for i := range n {
		require.NoError(b.T, u.Add(b.Ctx, Action(i)))
	}
	return u.(*upload.Upload)
}

// Words returns what says how often workers elsewhere were told of tasks since it was
// called last.
func (b *Bundle) Words() (told func() int) {
	b.T.Helper()
	words := b.DB.Client.Subscribe(b.Ctx, keys.WorkChannel)
	b.T.Cleanup(func() { _ = words.Close() })
	_, err := words.Receive(b.Ctx) // that it is subscribed
	require.NoError(b.T, err)
	return func() (n int) {
		b.T.Helper()
		mark := rand.Text()
		require.NoError(b.T, b.DB.Client.Publish(b.Ctx, keys.WorkChannel, mark).Err())
		for {
			m, err := words.ReceiveMessage(b.Ctx)
			require.NoError(b.T, err)
			switch {
			case m.Payload == mark:
				return n
			case strings.HasPrefix(m.Payload, b.DB.Name):
				n++
			}
		}
	}
}
