package batcher

import (
	"context"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/queue/keys"
)

// nodeWait is how long the steps for other nodes of a cluster wait for one that does not
// answer.
const nodeWait = 20 * time.Millisecond

// nodeCalls are the steps that wait for one node of a cluster.
type nodeCalls struct {
	waiting  []*Call
	flushers int // exchanges with it under way
}

// toNodes makes an exchange with each node of a cluster that has some of the batches. It
// returns when they are made, or after a moment: a node that does not answer keeps those
// who wait for it, and no others.
func (c *Batcher) toNodes(rides []*Call) {
	byNode := make(map[*redis.Client][]*Call)
	for _, r := range rides {
		node := c.db.NodeOf(context.Background(), keys.KeysOf(r.ID).Meta)
		byNode[node] = append(byNode[node], r)
	}
	var wg sync.WaitGroup
	for node, rides := range byNode {
		c.Mu.Lock()
		n := c.nodes[node]
		if n == nil {
			n = &nodeCalls{}
			if c.nodes == nil {
				c.nodes = make(map[*redis.Client]*nodeCalls)
			}
			c.nodes[node] = n
		}
		n.waiting = append(n.waiting, rides...)
		free := n.flushers < MaxFlushers
		if free {
			n.flushers++
		}
		c.Mu.Unlock()
		if free {
			wg.Add(1)
			c.Wg.Go(func() {
				defer wg.Done()
				c.toNode(n)
			})
		}
	}
	made := make(chan struct{})
	go func() {
		wg.Wait()
		close(made)
	}()
	limit := time.NewTimer(nodeWait)
	defer limit.Stop()
	select {
	case <-made:
	case <-limit.C:
	}
}

// toNode makes exchanges with a node as long as steps wait for it.
func (c *Batcher) toNode(n *nodeCalls) {
	for {
		c.Mu.Lock()
		if len(n.waiting) == 0 {
			n.flushers--
			c.Mu.Unlock()
			return
		}
		rides := n.waiting[:fitting(n.waiting)]
		if n.waiting = n.waiting[len(rides):]; len(n.waiting) == 0 {
			n.waiting = nil // what flies must not be overwritten
		}
		c.Mu.Unlock()
		c.exchange(rides)
	}
}
