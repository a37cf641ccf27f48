package ledger

import (
	"github.com/batchd/batchd/internal/batch"
)

// HandOver gives a batch that ends in this process to the requests that wait for it here, as the step
// that ended it returned the batch. It spares them a message and an exchange. Store.handOver is
// the one place to switch it off: with noHandOver, they hear of the end like all others, and read the batch.
type HandOver interface {
	// awaited returns the number of the last request that waits for the batch, or 0 if none does.
	Awaited(id string) int
	// tell hands the batch over to the requests up to that number, and wakes the later ones to read it.
	// Nil wakes all of them.
	Tell(id string, b *batch.Batch, last int)
}

// NoHandOver hands nothing over.
type NoHandOver struct{}

func (NoHandOver) Awaited(string) int { return 0 }

func (NoHandOver) Tell(string, *batch.Batch, int) {}
