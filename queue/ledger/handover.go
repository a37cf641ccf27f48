package ledger

import (
	"github.com/batchd/batchd/internal/batch"
)

// HandOver gives a batch that a step of this process has ended to the requests of this process
// that wait for it, with the batch as the step returned it. That saves each request a message
// and an exchange. With [NoHandOver] in [Ledger.HandOver], these requests get the message that
// all others get, and read the batch.
type HandOver interface {
	// Awaited returns the number of the last request that waits for the batch, or 0 if no request
	// waits.
	Awaited(id string) int
	// Tell hands the batch to the requests up to the number last, and wakes later requests to read
	// it. With a nil batch, it wakes all of these requests to read it.
	Tell(id string, b *batch.Batch, last int)
}

// NoHandOver is a [HandOver] that hands no batch over.
type NoHandOver struct{}

// Awaited implements [HandOver].
func (NoHandOver) Awaited(string) int { return 0 }

// Tell implements [HandOver].
func (NoHandOver) Tell(string, *batch.Batch, int) {}
