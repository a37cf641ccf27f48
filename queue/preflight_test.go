package queue_test

import (
	"context"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/redistest"
)

func TestWhatDoesNotSuitIsTold(t *testing.T) {
	unfit := func(b *bundle) []string {
		faults, err := b.Preflight(b.Ctx)
		require.NoError(t, err)
		return faults
	}
	onEveryStore(t, func(t *testing.T, b *bundle) { require.Empty(t, unfit(b)) })

	evicting := unfit(open(t, redistest.Start(t, "--maxmemory-policy", "allkeys-lru").URL()))
	require.Len(t, evicting, 1)
	require.Contains(t, evicting[0], "noeviction")

	node := unfit(open(t, redistest.Start(t, "--cluster-enabled", "yes", "--cluster-port", redistest.FreePort(t)).URL()))
	require.Len(t, node, 1)
	require.Contains(t, node[0], "redis+cluster://")
}

func TestAServerOlderThanWhatIsNeededIsTold(t *testing.T) {
	t.Parallel()
	b := open(t, redistest.Start(t).URL())
	b.DB.Client.AddHook(answering{command: "info", old: "redis_version:", new: "redis_version:5.0.7\r\nwas:"})
	faults, err := b.Preflight(b.Ctx)
	require.NoError(t, err)
	require.Len(t, faults, 1)
	require.Contains(t, faults[0], "5.0.7")
	require.Contains(t, faults[0], "6.2")
}

// answering is a hook that changes the text of what a command answers.
type answering struct{ command, old, new string }

func (a answering) DialHook(next redis.DialHook) redis.DialHook { return next }

func (a answering) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (a answering) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if got, ok := cmd.(*redis.StringCmd); ok && cmd.Name() == a.command {
			got.SetVal(strings.Replace(got.Val(), a.old, a.new, 1))
		}
		return err
	}
}
