package batches

import (
	"github.com/batchd/batchd/internal/batch"
)

func VerdictError(verdict string) error {
	switch verdict {
	case "stale":
		return batch.ErrStale
	case "gone":
		return batch.ErrNotFound
	case "terminal":
		return batch.ErrTerminal
	default:
		return nil
	}
}
