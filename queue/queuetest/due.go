package queuetest

import (
	"strconv"
	"strings"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

// Round makes one round of the sweeper as it comes.
func (b *Bundle) Round() batch.Swept {
	b.T.Helper()
	swept, ok, err := b.Sweeper.Sweep(b.Ctx, "w1")
	require.NoError(b.T, err)
	require.True(b.T, ok)
	return swept
}

// Commands is the number of commands that Redis has processed, those of scripts as well.
func (b *Bundle) Commands() int {
	b.T.Helper()
	info, err := b.DB.Client.Info(b.Ctx, "stats").Result()
	require.NoError(b.T, err)
	_, rest, _ := strings.Cut(info, "total_commands_processed:")
	number, _, _ := strings.Cut(rest, "\r\n")
	n, err := strconv.Atoi(number)
	require.NoError(b.T, err)
	return n
}
