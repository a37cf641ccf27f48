package queuetest

import (
	"strconv"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/queue/keys"
)

// Rewind makes an action that has ended one in flight, under an entry of the ledger, or
// one that waits, if there is none.
func (b *Bundle) Rewind(id string, index int, entry string) {
	b.T.Helper()
	k := keys.KeysOf(id)
	outcome := b.AllResults(id, 100)[index].Outcome
	_, err := b.DB.Client.TxPipelined(b.Ctx, func(p redis.Pipeliner) error {
		if entry == "" {
			p.SetRange(b.Ctx, k.State, int64(index), "p")
			p.HDel(b.Ctx, k.Ledger, strconv.Itoa(index))
		} else {
			p.SetRange(b.Ctx, k.State, int64(index), "r")
			p.HSet(b.Ctx, k.Ledger, strconv.Itoa(index), entry)
		}
		p.HDel(b.Ctx, k.Results, strconv.Itoa(index))
		p.HSet(b.Ctx, k.Meta, "status", "running")
		p.HIncrBy(b.Ctx, k.Meta, "pending", 1)
		p.HIncrBy(b.Ctx, k.Meta, outcome.String(), -1)
		p.HDel(b.Ctx, k.Meta, "ended")
		return nil
	})
	require.NoError(b.T, err)
}

func (b *Bundle) EntryOf(id string, index int) string {
	b.T.Helper()
	entry, err := b.DB.Client.HGet(b.Ctx, keys.KeysOf(id).Ledger, strconv.Itoa(index)).Result()
	require.NoError(b.T, err)
	return entry
}
