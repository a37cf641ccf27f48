package batches

import (
	"strings"
	"sync"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
)

// Waiters are the requests of this process that wait for the ends of batches.
type Waiters struct {
	pubsub *rdb.PubSub
	name   string // of this process
	listen sync.Once

	mu      sync.Mutex
	waiting map[string]map[chan *batch.Batch]int // by batch, the channels with the number of each request
	last    int                                  // number of the last request
}

func newWaiters(pubsub *rdb.PubSub, name string) *Waiters {
	return &Waiters{pubsub: pubsub, name: name, waiting: make(map[string]map[chan *batch.Batch]int)}
}

// watch returns a channel that receives a value soon after a batch has ended; see [batch.Store].
func (w *Waiters) watch(id string) (<-chan *batch.Batch, func()) {
	w.listen.Do(func() { w.pubsub.Listen(keys.DoneChannel, w.ended) })
	wake := make(chan *batch.Batch, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.waiting[id] == nil {
		w.waiting[id] = make(map[chan *batch.Batch]int)
	}
	w.last++
	w.waiting[id][wake] = w.last
	return wake, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.waiting[id], wake)
		if len(w.waiting[id]) == 0 {
			delete(w.waiting, id)
		}
	}
}

// ended wakes the requests that wait for a batch, upon the message of the step that ended it. It ignores
// the message of a step of this process, which has the name of the process: the ledger hands that batch
// over itself.
func (w *Waiters) ended(message string) {
	if id, origin, _ := strings.Cut(message, " "); origin != w.name {
		w.Tell(id, nil, 0)
	}
}

// Awaited returns the number of the last request if any waits for the batch, else 0. With Tell it
// implements the ledger's HandOver.
func (w *Waiters) Awaited(id string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.waiting[id]) == 0 {
		return 0
	}
	return w.last
}

// Tell hands a batch over to the requests with numbers up to last. It wakes the later ones with nil, and
// they read the batch themselves, since it may have been retried meanwhile.
func (w *Waiters) Tell(id string, b *batch.Batch, last int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for wake, number := range w.waiting[id] {
		handed := b
		if number > last {
			handed = nil
		}
		select {
		case wake <- handed:
		default: // the request has a wakeup already
		}
	}
}
