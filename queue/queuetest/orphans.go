package queuetest

import (
	"context"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// breaking passes connections on, and closes one instead of bringing its next answer.
type breaking struct {
	Addr string
	Next atomic.Bool
}

func NewBreaking(t *testing.T, to string) *breaking {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	b := &breaking{Addr: l.Addr().String()}
	go func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", to)
			if err != nil {
				_ = from.Close()
				continue
			}
			go func() {
				_, _ = io.Copy(server, from)
				_ = server.Close()
			}()
			go func() {
				defer from.Close()
				defer server.Close()
				answer := make([]byte, 64<<10)
				for {
					n, err := server.Read(answer)
					if err != nil || b.Next.CompareAndSwap(true, false) {
						return
					}
					if _, err := from.Write(answer[:n]); err != nil {
						return
					}
				}
			}()
		}
	}()
	return b
}

// Refusing is a hook that refuses a step before it is sent.
type Refusing struct {
	Step string
	Over atomic.Bool
}

func (r *Refusing) DialHook(next redis.DialHook) redis.DialHook { return next }

func (r *Refusing) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (r *Refusing) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if !r.Over.Load() && strings.Contains(cmd.String(), r.Step) {
			cmd.SetErr(net.ErrClosed)
			return net.ErrClosed
		}
		return next(ctx, cmd)
	}
}
