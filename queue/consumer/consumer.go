// Package consumer takes the tasks of actions from their queues and runs them. [Consumers.NewServer] makes
// the [Server] of a worker, which also has asynq deliver webhooks; see package webhooks.
//
// For each target the server polls its queues: one exchange ends tasks, puts others back and takes as many
// as there are slots for. The types follow a task: targetConsumer polls the queues of one target, share
// decides how many tasks to take from which, slots counts the tasks in hand, runners run them, and a
// forwarder moves tasks whose retry time has come back to their queues. An audit compares the counts with
// the tasks.
//
// How tasks look in Redis is up to package tasks, the state of an action to package ledger, and when a
// request to a target with a rate is sent to package throttle. Which owner's action comes next in a
// queue is decided in Redis; see fair.lua of package tasks. Package repair finds the tasks of dead workers.
package consumer

import (
	"context"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue"
	"github.com/batchd/batchd/queue/batcher"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/ledger"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/tasks"
	"github.com/batchd/batchd/queue/throttle"
)

const (
	// pollEvery is how often a consumer polls its queues without a wakeup, which can be lost.
	pollEvery = 2 * time.Second
	// spareConns is the number of connections for everything except begins, finishes, polls and
	// reservations.
	spareConns = 4
)

// consumer takes the tasks of actions from the queues of all targets, and runs and ends them.
type consumer struct {
	store      *queue.Store
	consumers  *Consumers
	targets    []*targetConsumer
	queues     map[string]*taskQueue // by name
	forwarder  *forwarder
	retryDelay func(n int, err error, t *asynq.Task) time.Duration
	action     func(id string, index int, slot *Slot) error

	quit     chan struct{}  // closed when the consumer takes no more tasks
	closed   chan struct{}  // closed when no task can end any more
	wg       sync.WaitGroup // everything but runners
	runners  sync.WaitGroup
	remove   func() // from consumers
	unlisten func() // to channels
}

func newConsumer(cs *Consumers, cfg ServerConfig) *consumer {
	c := &consumer{
		store: cs.store, consumers: cs, queues: make(map[string]*taskQueue), quit: make(chan struct{}), closed: make(chan struct{}),
		retryDelay: cfg.RetryDelayFunc,
	}
	c.forwarder = &forwarder{consumer: c, wakeC: make(chan struct{}, 1)}
	for _, target := range cfg.Targets {
		t := newTargetConsumer(c, target)
		c.targets = append(c.targets, t)
		for _, lane := range []batch.Lane{batch.Interactive, batch.Bulk} {
			for _, name := range c.store.Tasks.QueuesOf(tasks.Route{Target: target.Name, Lane: lane}) {
				q := newTaskQueue(t, name, lane == batch.Bulk)
				t.queues = append(t.queues, q)
				c.queues[name] = q
			}
		}
	}
	return c
}

func (c *consumer) start(action func(id string, index int, slot *Slot) error) {
	c.action = action
	c.remove = c.consumers.add(c)
	stopWork, stopHolders := c.store.PubSub.Listen(keys.WorkChannel, c.onWakeup), c.store.PubSub.Listen(keys.HoldersChannel, c.store.Ledger.Restorer.AnswerQuestion)
	stopTasks := c.store.PubSub.Listen(keys.TasksChannel, c.onTasksQuestion)
	c.unlisten = func() { stopWork(); stopHolders(); stopTasks() }
	for _, t := range c.targets {
		c.wg.Go(t.run)
		if t.pacer != nil {
			c.wg.Go(func() { t.pacer.Run(c.quit, c.closed) })
		}
	}
	c.wg.Go(c.pollAllRegularly)
	c.wg.Go(c.forwarder.run)
	c.wg.Go(func() { c.every(leaseEvery, func() { c.renewLeases(time.Now()) }) })
	c.wg.Go(func() { c.every(auditEvery, c.auditSlots) })
	c.wg.Go(func() { c.store.Ledger.Restorer.WatchHistory(c.closed) })
	warmer := &rdb.Warmer{DB: c.store.DB, Connections: c.connections, Steps: []*rdb.Step{tasks.Steps.Poll, tasks.Steps.Offer, throttle.Steps.Reserve, ledger.Steps.Begin, ledger.Steps.Finish, ledger.Steps.Release, tasks.Steps.Requeue}}
	c.wg.Go(func() { warmer.Run(c.quit) })
}

// stop takes no more tasks. It may be called repeatedly.
func (c *consumer) stop() {
	select {
	case <-c.quit:
	default:
		close(c.quit)
		c.unlisten()
		c.remove()
	}
}

// giveBackRest gives back the tasks that no runner has begun, after stop. Idle runners end.
func (c *consumer) giveBackRest() {
	for _, t := range c.targets { // a poll under way may still take some
		t.pollMu.Lock()
		t.pollMu.Unlock() //nolint:staticcheck // waits until it is free, no more
		t.awaitPolls()
	}
	var rest []*task
	for _, t := range c.targets {
		rest = append(rest, t.takeRest()...)
	}
	giveBackAll(rest)
}

// close returns when the ends of all tasks were reported, or could not be reported for shutdownTimeout.
func (c *consumer) close() {
	close(c.closed)
	c.wg.Wait()
}

// onWakeup takes in the message of another process that a queue has tasks.
func (c *consumer) onWakeup(message string) {
	if origin, queue, _ := strings.Cut(message, " "); origin != c.store.DB.Name {
		c.markNonEmpty(queue)
	}
}

// markNonEmpty notes that a queue may have tasks.
func (c *consumer) markNonEmpty(queue string) {
	if q := c.queues[queue]; q != nil {
		q.target.mu.Lock()
		q.maybeNonEmpty = true
		q.target.mu.Unlock()
		q.target.wake()
	}
}

// pollAllRegularly has all queues polled from time to time while a batch is open.
func (c *consumer) pollAllRegularly() {
	for n := 0; ; n++ {
		select {
		case <-c.quit:
			return
		case <-time.After(pollEvery - pollEvery/8 + rand.N(pollEvery/4)): //nolint:gosec // jitter is no secret
		}
		open, _ := c.store.Batches.Index.AnyOpen(context.Background())
		if !open {
			continue
		}
		for _, t := range c.targets {
			t.markAllNonEmpty()
			if t.pacer != nil {
				t.pacer.Probe(1)
			}
		}
		if n%forwardPolls == 0 {
			c.forwarder.forwardAll()
		}
		if n%reapPolls == 0 {
			c.reap()
		}
	}
}

// every calls do regularly until no task can end any more.
func (c *consumer) every(period time.Duration, do func()) {
	tick := time.NewTicker(period)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			do()
		case <-c.closed:
			return
		}
	}
}

// connections returns how many connections to Redis a busy worker uses at a time.
func (c *consumer) connections(trip time.Duration) int {
	n := spareConns + batcher.MaxExchanges(trip)
	for _, t := range c.targets {
		if n++; t.pacer != nil {
			n += throttle.MostReserving
		}
	}
	return n
}

// eachNode calls do in the background for the queues of each node of a cluster, so that a node that does not
// reply delays only its own queues. Without a cluster it calls do once.
func (c *consumer) eachNode(queues []*taskQueue, do func([]*taskQueue)) {
	for _, of := range byNode(c.store.DB, queues, func(q *taskQueue) string { return q.prefix }) {
		c.wg.Go(func() { do(of) })
	}
}

// byNode groups items by the node of the cluster that has the key of each. Without a cluster there is one
// group.
func byNode[T any](db *rdb.DB, items []T, keyOf func(T) string) map[*redis.Client][]T {
	groups := make(map[*redis.Client][]T)
	for _, item := range items {
		node := db.NodeOf(context.Background(), keyOf(item))
		groups[node] = append(groups[node], item)
	}
	return groups
}
