package batches

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/batchd/batchd/internal/batch"
)

// drawAction draws an action with any mix of fields, valid or not.
func drawAction(r *rapid.T, nested bool) *batch.Action {
	text := rapid.String()
	a := &batch.Action{
		ID: text.Draw(r, "id"), Method: text.Draw(r, "method"), Path: text.Draw(r, "path"), Query: text.Draw(r, "query"), ForceQuery: rapid.Bool().Draw(r, "forceQuery"),
		Timeout: time.Duration(rapid.Int64().Draw(r, "timeout")),
		Retry:   rapid.SampledFrom([]batch.RetryMode{batch.RetryAuto, batch.RetrySafe, batch.RetryNever}).Draw(r, "retry"),
		Group:   text.Draw(r, "group"),
	}
	for range rapid.IntRange(0, 3).Draw(r, "headers") {
		a.Headers = append(a.Headers, batch.Field{Name: text.Draw(r, "name"), Value: text.Draw(r, "value")})
	}
	if rapid.Bool().Draw(r, "has body") {
		a.Body = rapid.SliceOf(rapid.Byte()).Draw(r, "body")
		if a.Body == nil {
			a.Body = []byte{}
		}
	}
	if rapid.Bool().Draw(r, "has refusal") {
		a.Refusal = &batch.Failure{Code: batch.ErrorCode(text.Draw(r, "code")), Message: text.Draw(r, "message")}
	}
	if !nested && rapid.Bool().Draw(r, "has undo") {
		a.Undo = drawAction(r, true)
	}
	return a
}

func TestAStoredActionComesBackAsItWas(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		want := drawAction(r, false)
		got, err := decodeAction(AppendAction(nil, want))
		require.NoError(r, err)
		require.Equal(r, want, &got)
	})
}

func TestBytesThatAreNoActionAreRefused(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		encoded := AppendAction(nil, drawAction(r, false))
		_, _ = decodeAction(rapid.SliceOf(rapid.Byte()).Draw(r, "garbage")) // it must not panic
		cut := rapid.IntRange(0, len(encoded)-1).Draw(r, "cut")
		_, _ = decodeAction(encoded[:cut])
	})
	for _, bad := range [][]byte{nil, {actionVersion}, {actionVersion + 1, 0}, {actionVersion, 9, 'x', 0}} {
		_, err := decodeAction(bad)
		require.ErrorIs(t, err, errAction)
	}
}
