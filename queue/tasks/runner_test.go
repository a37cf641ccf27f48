package tasks

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTaskIDsAreRead(t *testing.T) {
	t.Parallel()
	for _, round := range []string{"", "2", "tok-en"} {
		id, index, ok := ParseTaskID(TaskID("some", 17, round))
		require.True(t, ok)
		require.Equal(t, "some", id)
		require.Equal(t, 17, index)
	}
	for _, bad := range []string{"", "some", "some:", ":1", "some:x", "some:-1"} {
		_, _, ok := ParseTaskID(bad)
		require.False(t, ok, bad)
	}
}
