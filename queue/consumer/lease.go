package consumer

import (
	"context"
	"time"

	"github.com/batchd/batchd/queue/tasks"
)

const (
	// leaseEvery is how often a consumer renews the leases of tasks that take long.
	leaseEvery = tasks.AsynqLease / 3
	// reapGrace is for how long a lease must have been over before a consumer puts the task back. Consumers
	// renew leases more often, so a lease that could not be renewed while Redis was unavailable is renewed
	// before.
	reapGrace = leaseEvery + 2*time.Second
	// reapPolls is after how many regular polls a consumer looks for expired leases: those of processes that
	// died.
	reapPolls = 4
)

// renewLeases renews the leases of tasks that take long, as an asynq server does. Otherwise
// asynq's tools and other consumers would consider the tasks lost.
func (c *consumer) renewLeases(now time.Time) {
	held := make(map[string][]string) // ids by queue
	for _, t := range c.targets {
		t.mu.Lock()
		for _, k := range t.runners.tasks() {
			if now.Sub(k.taken) >= leaseEvery/2 {
				held[k.queue.name] = append(held[k.queue.name], k.id)
			}
		}
		t.mu.Unlock()
	}
	if len(held) == 0 {
		return
	}
	for _, err := range c.store.Tasks.RenewLeases(context.Background(), held) {
		c.store.Log.Warn("leases not renewed", "error", err)
	}
}

// reap puts tasks back whose leases have expired: the processes that took them died, or did not receive
// the reply, and the sweeper did not find them.
func (c *consumer) reap() {
	var all []*taskQueue
	for _, t := range c.targets {
		all = append(all, t.queues...)
	}
	c.eachNode(all, c.reapQueues)
}

func (c *consumer) reapQueues(queues []*taskQueue) {
	answers := c.store.Tasks.Reap(context.Background(), namesOf(queues), reapGrace)
	for i, q := range queues {
		switch answer := answers[i]; {
		case answer.Err != nil:
			c.store.Log.Warn("expired leases not looked for", "queue", q.name, "error", answer.Err)
		case answer.PutBack > 0:
			c.store.Log.Info("tasks put back whose leases had expired", "queue", q.name, "tasks", answer.PutBack)
			c.markNonEmpty(q.name)
		}
	}
}
