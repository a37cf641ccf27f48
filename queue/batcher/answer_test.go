package batcher

import (
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/queue/rdb"
)

// A caller repeats a step whose answer has not a part for each of its actions: otherwise the result of an
// action that the target has executed would be lost.
func TestAnAnswerThatIsTooShortIsRepeated(t *testing.T) {
	t.Parallel()
	c := &Call{done: make(chan struct{})}
	m := &mergedCall{calls: []*Call{c}, cmd: redis.NewCmd(t.Context())}
	m.reply(nil)
	require.ErrorIs(t, c.err, rdb.ErrAnswer)
	require.True(t, rdb.IsUnavailable(c.err))
}
