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
	for _, answer := range []any{"QUEUED", nil, []any{}, []any{"0"}} {
		m := &mergedCall{calls: []*Call{{}, {}}, cmd: redis.NewCmd(t.Context())}
		m.cmd.SetVal(answer)
		err := m.read(t.Context(), nil)
		require.ErrorIs(t, err, rdb.ErrAnswer, answer)
		require.True(t, rdb.IsUnavailable(err), answer)
	}
}
