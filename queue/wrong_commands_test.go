package queue_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/queue/rdb"
)

// What Redis itself says of wrong commands is recognised.
func TestRepliesOfARealServerToWrongCommands(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		require.NoError(t, b.DB.Client.Set(b.Ctx, "{a}text", "x", 0).Err())
		require.NoError(t, b.DB.Client.Do(b.Ctx, "PING").Err())
		for _, err := range []error{
			b.DB.Client.HGet(b.Ctx, "{a}text", "x").Err(),
			b.DB.Client.Do(b.Ctx, "GET").Err(),
			b.DB.Client.Do(b.Ctx, "NONSENSE", "{a}").Err(),
			b.DB.Client.Do(b.Ctx, "SET", "{a}text", "1", "NONSENSE").Err(),
			rdb.NewStep("return redis.call('HGET', KEYS[1], 'x')").Run(b.Ctx, b.DB.Client, []string{"{a}text"}).Err(),
			rdb.NewStep("return nothing.at.all").Run(b.Ctx, b.DB.Client, []string{"{a}text"}).Err(),
			rdb.NewStep("return redis.call('GET')").Run(b.Ctx, b.DB.Client, []string{"{a}text"}).Err(),
			rdb.NewStep("return tonumber(KEYS) + 1").Run(b.Ctx, b.DB.Client, []string{"{a}text"}).Err(),
			rdb.NewStep("return }").Run(b.Ctx, b.DB.Client, []string{"{a}text"}).Err(),
		} {
			require.Error(t, err)
			require.False(t, rdb.IsUnavailable(rdb.MapError(b.Ctx, err)), "%v", err)
		}
	})
}
