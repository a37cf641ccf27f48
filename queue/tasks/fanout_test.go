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
