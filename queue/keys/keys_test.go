package keys

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTheKeysOfABatch(t *testing.T) {
	t.Parallel()
	require.Equal(t, BatchKeys{
		Meta: "batchd:{7}:m", State: "batchd:{7}:s", Ledger: "batchd:{7}:l", Actions: "batchd:{7}:a",
		Results: "batchd:{7}:r", Groups: "batchd:{7}:g", Deliveries: "batchd:{7}:w", Upload: "batchd:{7}:u",
	}, KeysOf("7"))
}
