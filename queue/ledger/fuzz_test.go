package ledger

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/queue/batches"
)

// FuzzRecord encodes and decodes the records of ended attempts, with another record behind.
func FuzzRecord(f *testing.F) {
	f.Add("batch", 7, "token", "worker", "2", "S", []byte("result"), int64(1), 3)
	f.Add("", 0, "", "", "", "", []byte{}, int64(-1), -1)
	f.Fuzz(func(t *testing.T, id string, index int, token, worker, round, state string, result []byte, at int64, attempts int) {
		r := newRecentAttempts()
		at %= 1 << 40
		a := attempt{
			actionKey: actionKey{id, index}, state: state, at: r.base.Add(time.Duration(at)),
			entry: batches.Entry{Token: token, Worker: worker, Round: round, Attempts: attempts, Earlier: attempts / 2, First: time.UnixMilli(at), Started: time.UnixMilli(at + 1)},
		}
		if len(result) > 0 {
			a.result = result
		}
		record := r.append(nil, 99, &a)
		require.Len(t, record, lengthOf(record))
		back := r.read(append(record, record...))
		require.True(t, a.at.Equal(back.at))
		back.at = a.at
		require.Equal(t, a, back)
	})
}
