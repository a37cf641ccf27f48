package tasks

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAPayloadOfAnotherMakeIsRefused(t *testing.T) {
	t.Parallel()
	for _, payload := range []string{"", "1", "1:id", "1::3", "2:id:3", "1:id:-1", "1:id:x", "1:id:"} {
		_, _, err := DecodeTask([]byte(payload))
		require.ErrorIs(t, err, errTask, payload)
	}
}

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
