package upload_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/upload"
)

func TestAnAbortedUploadLeavesNothingOfItsGroups(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		u, err := b.Open(b.Ctx, "me", "")
		require.NoError(t, err)
		a := queuetest.Action(0)
		a.Group = "g"
		require.NoError(t, u.Add(b.Ctx, a))
		require.NoError(t, u.(*upload.Upload).StageGroups(b.Ctx))
		require.NoError(t, u.(*upload.Upload).Flush(b.Ctx))
		require.NoError(t, u.(*upload.Upload).Settle(t.Context()))
		u.Abort(b.Ctx)
		for key := range b.AllKeys() {
			require.NotContains(t, key, u.(*upload.Upload).ID(), "a broken upload leaves nothing")
		}
	})
}
