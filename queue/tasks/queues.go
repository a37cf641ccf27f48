package tasks

import (
	"context"
	"fmt"
	"hash/fnv"
	"log/slog"
	"strconv"

	"github.com/hibiken/asynq"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
)

// WebhookQueue is the asynq queue of webhooks.
const WebhookQueue = "webhooks"

const (
	// ClusterShards is the number of asynq queues that each lane of a target has on a cluster, where
	// one queue is on one server and no faster than that server. It must be the same in all processes.
	ClusterShards = 8
	// ShardRun is the number of neighbouring actions that go to the same queue: a worker that takes
	// them together begins them in one exchange.
	ShardRun = 64
)

// Queues are the asynq queues of all targets. They are safe for concurrent use.
type Queues struct {
	db        *rdb.DB
	log       *slog.Logger
	inspector *asynq.Inspector
	// shards is the number of queues of each lane: [ClusterShards] on a cluster, otherwise 1.
	shards int
	// Local wakes the consumers of this process for a queue. It may be nil. It must not change once
	// the queues are used.
	Local func(queue string)
}

// New returns the queues in a Redis.
func New(db *rdb.DB, log *slog.Logger) *Queues {
	q := &Queues{db: db, log: log, inspector: asynq.NewInspectorFromRedisClient(db.Client), shards: 1}
	if db.Cluster != nil {
		q.shards = ClusterShards
	}
	return q
}

// Route says which queues the tasks of a batch go to: those of a lane of a target.
type Route struct {
	Target string
	Lane   batch.Lane
}

// RouteOf returns the route of a batch from the fields of its meta hash.
func RouteOf(meta map[string]string) Route {
	return Route{meta["target"], batch.Lane(meta["lane"])}
}

// QueueOf returns the asynq queue of the task of the action with an index, in the batch with an id.
func (q *Queues) QueueOf(r Route, id string, index int) string {
	if q.shards == 1 {
		return r.Target + "." + string(r.Lane)
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(id)) // never fails
	return shardName(r, (int(h.Sum32()%ClusterShards)+index/ShardRun)%q.shards)
}

// QueuesOf returns all asynq queues of a lane.
func (q *Queues) QueuesOf(r Route) []string {
	if q.shards == 1 {
		return []string{q.QueueOf(r, "", 0)}
	}
	names := make([]string, q.shards)
	for i := range names {
		names[i] = shardName(r, i)
	}
	return names
}

func shardName(r Route, shard int) string {
	return r.Target + "." + string(r.Lane) + "." + strconv.Itoa(shard)
}

// TaskQueues returns all queues that asynq knows, except for that of webhooks.
func (q *Queues) TaskQueues(ctx context.Context) ([]string, error) {
	all, err := q.db.Members(ctx, keys.AsynqQueues)
	if err != nil {
		return nil, fmt.Errorf("list the queues: %w", err)
	}
	queues := all[:0]
	for _, queue := range all {
		if queue != WebhookQueue {
			queues = append(queues, queue)
		}
	}
	return queues, nil
}
