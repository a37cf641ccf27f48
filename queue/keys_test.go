package queue

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTheKeysOfABatch(t *testing.T) {
	t.Parallel()
	require.Equal(t, batchKeys{
		meta: "batchd:{7}:m", state: "batchd:{7}:s", ledger: "batchd:{7}:l", actions: "batchd:{7}:a",
		results: "batchd:{7}:r", groups: "batchd:{7}:g", deliveries: "batchd:{7}:w", upload: "batchd:{7}:u",
	}, keysOf("7"))
}
