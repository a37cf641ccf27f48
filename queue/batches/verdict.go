package batches

import "github.com/batchd/batchd/internal/batch"

// VerdictError returns the error for the verdict of a step: [batch.ErrStale], [batch.ErrNotFound] or
// [batch.ErrTerminal], and nil for every other verdict.
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
