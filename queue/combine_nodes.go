package queue

import (
	"context"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// nodeWait is how long the steps for other nodes of a cluster wait for one that does not
// answer.
const nodeWait = 20 * time.Millisecond

// nodeRides are the steps that wait for one node of a cluster.
type nodeRides struct {
	waiting []*ride
	fliers  int // exchanges with it under way
}

// toNodes makes an exchange with each node of a cluster that has some of the batches. It
// returns when they are made, or after a moment: a node that does not answer keeps those
// who wait for it, and no others.
func (c *combiner) toNodes(rides []*ride) {
	byNode := make(map[*redis.Client][]*ride)
	for _, r := range rides {
		node := c.db.NodeOf(context.Background(), keysOf(r.id).meta)
		byNode[node] = append(byNode[node], r)
	}
	var wg sync.WaitGroup
	for node, rides := range byNode {
		c.mu.Lock()
		n := c.nodes[node]
		if n == nil {
			n = &nodeRides{}
			if c.nodes == nil {
				c.nodes = make(map[*redis.Client]*nodeRides)
			}
			c.nodes[node] = n
		}
		n.waiting = append(n.waiting, rides...)
		free := n.fliers < flights
		if free {
			n.fliers++
		}
		c.mu.Unlock()
		if free {
			wg.Add(1)
			c.wg.Go(func() {
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
func (c *combiner) toNode(n *nodeRides) {
	for {
		c.mu.Lock()
		if len(n.waiting) == 0 {
			n.fliers--
			c.mu.Unlock()
			return
		}
		rides := n.waiting[:fitting(n.waiting)]
		if n.waiting = n.waiting[len(rides):]; len(n.waiting) == 0 {
			n.waiting = nil // what flies must not be overwritten
		}
		c.mu.Unlock()
		c.exchange(rides)
	}
}
