package queue

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/queue/rdb"
)

// What Redis itself says of wrong commands is recognised.
func TestRepliesOfARealServerToWrongCommands(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		require.NoError(t, b.db.Client.Set(b.ctx, "{a}text", "x", 0).Err())
		require.NoError(t, b.db.Client.Do(b.ctx, "PING").Err())
		for _, err := range []error{
			b.db.Client.HGet(b.ctx, "{a}text", "x").Err(),
			b.db.Client.Do(b.ctx, "GET").Err(),
			b.db.Client.Do(b.ctx, "NONSENSE", "{a}").Err(),
			b.db.Client.Do(b.ctx, "SET", "{a}text", "1", "NONSENSE").Err(),
			rdb.NewStep("return redis.call('HGET', KEYS[1], 'x')").Run(b.ctx, b.db.Client, []string{"{a}text"}).Err(),
			rdb.NewStep("return nothing.at.all").Run(b.ctx, b.db.Client, []string{"{a}text"}).Err(),
			rdb.NewStep("return redis.call('GET')").Run(b.ctx, b.db.Client, []string{"{a}text"}).Err(),
			rdb.NewStep("return tonumber(KEYS) + 1").Run(b.ctx, b.db.Client, []string{"{a}text"}).Err(),
			rdb.NewStep("return }").Run(b.ctx, b.db.Client, []string{"{a}text"}).Err(),
		} {
			require.Error(t, err)
			require.False(t, rdb.IsUnavailable(rdb.MapError(b.ctx, err)), "%v", err)
		}
	})
}
