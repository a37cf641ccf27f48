package queue

import "github.com/batchd/batchd/internal/batch"

// handOver gives a batch that ends in this process to the requests that wait for it here, as the step
// that ended it returned the batch. It spares them a message and an exchange. Store.handOver is
// the one place to switch it off: with noHandOver, they hear of the end like all others, and read the batch.
type handOver interface {
	// awaited returns the number of the last request that waits for the batch, or 0 if none does.
	awaited(id string) int
	// tell hands the batch over to the requests up to that number, and wakes the later ones to read it.
	// Nil wakes all of them.
	tell(id string, b *batch.Batch, last int)
}

// noHandOver hands nothing over.
type noHandOver struct{}

func (noHandOver) awaited(string) int             { return 0 }
func (noHandOver) tell(string, *batch.Batch, int) {}
