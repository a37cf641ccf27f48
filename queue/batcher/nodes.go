package batcher

import (
	"context"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/queue/keys"
)

// nodeWait is how long a flush loop waits for the nodes of a cluster before it goes on with
// the next calls.
const nodeWait = 20 * time.Millisecond

// nodeQueue has the calls that wait for one node of a cluster.
type nodeQueue struct {
	waiting  []*Call
	flushers int // concurrent exchanges with the node, at most maxFlushers
}

// toNodes makes an exchange with each node of a cluster that has some of the batches. It
// returns once these have ended, or after nodeWait: a node that does not answer delays only
// the calls for its own batches.
func (b *Batcher) toNodes(calls []*Call) {
	byNode := make(map[*redis.Client][]*Call)
	for _, c := range calls {
		node := b.db.NodeOf(context.Background(), keys.KeysOf(c.ID).Meta)
		byNode[node] = append(byNode[node], c)
	}
	var wg sync.WaitGroup
	for node, calls := range byNode {
		b.mu.Lock()
		q := b.nodes[node]
		if q == nil {
			q = &nodeQueue{}
			if b.nodes == nil {
				b.nodes = make(map[*redis.Client]*nodeQueue)
			}
			b.nodes[node] = q
		}
		q.waiting = append(q.waiting, calls...)
		free := q.flushers < maxFlushers
		if free {
			q.flushers++
		}
		b.mu.Unlock()
		if free {
			wg.Add(1)
			b.wg.Go(func() {
				defer wg.Done()
				b.toNode(q)
			})
		}
	}
	ended := make(chan struct{})
	go func() {
		wg.Wait()
		close(ended)
	}()
	limit := time.NewTimer(nodeWait)
	defer limit.Stop()
	select {
	case <-ended:
	case <-limit.C:
	}
}

// toNode makes exchanges with a node as long as calls wait for it.
func (b *Batcher) toNode(q *nodeQueue) {
	for {
		b.mu.Lock()
		if len(q.waiting) == 0 {
			q.flushers--
			b.mu.Unlock()
			return
		}
		calls := q.waiting[:fit(q.waiting)]
		if q.waiting = q.waiting[len(calls):]; len(q.waiting) == 0 {
			q.waiting = nil // the next calls must not overwrite these
		}
		b.mu.Unlock()
		b.exchange(calls)
	}
}
