package queue_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/queuetest"
)

func TestANoteThatComesWhileTasksArePutBackStays(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		queue := b.Tasks.QueuesOf(queuetest.Crm(batch.Interactive))[0]
		require.NoError(t, b.Tasks.ReportLost(b.Ctx, queue))
		seen, err := b.DB.Members(b.Ctx, keys.LostKey)
		require.NoError(t, err)
		require.NoError(t, b.Tasks.ReportLost(b.Ctx, queue))
		require.NoError(t, b.Tasks.ForgetLost(b.Ctx, seen))
		left, err := b.DB.Members(b.Ctx, keys.LostKey)
		require.NoError(t, err)
		require.Len(t, left, 1)
	})
}
