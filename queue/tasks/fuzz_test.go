package tasks

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func FuzzDecodeTask(f *testing.F) {
	for _, seed := range []string{"1:id:7", "1:a:b:7", "1::7", "1:id:-1", "1:id:+7", "1:id:007", "2:id:7", "1:id", "", "1:id:99999999999999999999"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		id, index, err := DecodeTask(payload)
		if err != nil {
			require.ErrorIs(t, err, errTask)
			return
		}
		require.NotEmpty(t, id)
		require.GreaterOrEqual(t, index, 0)
		require.Equal(t, string(payload), string(EncodeTask(id, index)), "one task has one payload")
	})
}

func FuzzParseTaskID(f *testing.F) {
	for _, seed := range []string{"id:7", "id:7:2", "id", ":7", "id:-1", "id:+7", "id:07:", "id:7:a:b"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, task string) {
		id, index, ok := ParseTaskID(task)
		if !ok {
			return
		}
		require.NotEmpty(t, id)
		require.GreaterOrEqual(t, index, 0)
		whole := TaskID(id, index, "")
		require.True(t, task == whole || strings.HasPrefix(task, whole+":"), "%q is another spelling of %q", task, whole)
	})
}
