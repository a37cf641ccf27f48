package queuetest

import (
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

func (b *Bundle) Sweep() batch.Swept {
	b.T.Helper()
	require.NoError(b.T, b.Sweeper.Pages.DueNow(b.Ctx))
	swept, ok, err := b.Sweeper.Sweep(b.Ctx, "w1")
	require.NoError(b.T, err)
	require.True(b.T, ok)
	return swept
}
