package queuetest

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/tasks"
)

// Crm returns a lane of the target "crm", to which [Spec] submits.
func Crm(lane batch.Lane) tasks.Route { return tasks.Route{Target: "crm", Lane: lane} }

// Inspector returns asynq's inspector of the store's Redis.
func (b *Bundle) Inspector() *asynq.Inspector { return asynq.NewInspectorFromRedisClient(b.DB.Client) }

// Pending returns the tasks that wait in the queues of a lane, and those of [Bundle.Offers].
func (b *Bundle) Pending(lane batch.Lane) []*asynq.TaskInfo {
	b.T.Helper()
	return append(b.Listed(lane, b.Inspector().ListPendingTasks), b.Offers(lane)...)
}

// Offers returns the tasks that a poll will create for the waiting actions of a lane.
func (b *Bundle) Offers(lane batch.Lane) (offered []*asynq.TaskInfo) {
	b.T.Helper()
	for _, queue := range b.Tasks.QueuesOf(Crm(lane)) {
		prefix := tasks.FairPrefix(queue)
		for _, owner := range Must(b.DB.Client.ZRange(b.Ctx, prefix+"o", 0, -1).Result()) {
			for _, id := range Must(b.DB.Client.LRange(b.Ctx, prefix+"o:"+owner, 0, -1).Result()) {
				round, _, _ := strings.Cut(Must(b.DB.Client.HGet(b.Ctx, prefix+"m", id).Result()), "|")
				for _, r := range Must(b.DB.Client.LRange(b.Ctx, prefix+"b:"+id, 0, -1).Result()) {
					for _, i := range indexesIn(r) {
						offered = append(offered, &asynq.TaskInfo{ID: tasks.TaskID(id, i, round), Queue: queue, Type: tasks.TaskAction, Payload: tasks.EncodeTask(id, i)})
					}
				}
			}
		}
	}
	return offered
}

// indexesIn returns the indexes of a range of a fair queue; see tasks/lua/fair.lua.
func indexesIn(text string) (indexes []int) {
	parts := strings.Split(text, "-")
	for i := int(rdb.Atoi(parts[0])); i < int(rdb.Atoi(parts[1])); i++ {
		if len(parts) == 2 || strconv.Itoa(i/tasks.ShardRun%tasks.ClusterShards) == parts[2] {
			indexes = append(indexes, i)
		}
	}
	return indexes
}

// Listed returns all tasks in the queues of a lane that a method of the inspector lists.
func (b *Bundle) Listed(lane batch.Lane, list func(string, ...asynq.ListOption) ([]*asynq.TaskInfo, error)) []*asynq.TaskInfo {
	b.T.Helper()
	var all []*asynq.TaskInfo
	for _, queue := range b.Tasks.QueuesOf(Crm(lane)) {
		for page := 1; ; page++ {
			tasks, err := list(queue, asynq.PageSize(1000), asynq.Page(page))
			if errors.Is(err, asynq.ErrQueueNotFound) {
				break
			}
			require.NoError(b.T, err)
			all = append(all, tasks...)
			if len(tasks) < 1000 {
				break
			}
		}
	}
	return all
}

// Active returns the ids of the tasks that asynq's keys show as running.
func (b *Bundle) Active() (ids []string) {
	b.T.Helper()
	queues, err := b.Tasks.TaskQueues(b.Ctx)
	require.NoError(b.T, err)
	for _, queue := range queues {
		ids = append(ids, b.DB.Client.LRange(b.Ctx, tasks.AsynqPrefix(queue)+"active", 0, -1).Val()...)
	}
	return ids
}

// DueEntries returns the number of tasks of the target "crm" that wait for another attempt by the keys
// named by [tasks.DueKey].
func DueEntries(b *Bundle) (n int64) {
	b.T.Helper()
	for _, lane := range []batch.Lane{batch.Interactive, batch.Bulk} {
		for _, queue := range b.Tasks.QueuesOf(Crm(lane)) {
			n += Must(b.DB.Client.ZCard(b.Ctx, tasks.DueKey(queue)).Result())
		}
	}
	return n
}

// AsynqKeyKind returns the part behind the queue in a key of asynq, such as "pending" in
// asynq:{queue}:pending and "t" in asynq:{queue}:t:id. For other keys it returns the empty string.
func AsynqKeyKind(key string) string {
	if !strings.HasPrefix(key, "asynq:{") {
		return ""
	}
	_, rest, _ := strings.Cut(key, "}:")
	kind, _, _ := strings.Cut(rest, ":")
	return kind
}

// Enqueue enqueues tasks for actions of a batch, whether or not they wait in a fair queue.
func (b *Bundle) Enqueue(ctx context.Context, id string, r tasks.Route, indexes []int) error {
	return b.Tasks.EnqueueTasks(ctx, b.Tasks.TasksOf(id, r, "", indexes))
}

// CreateTasks creates the tasks of all waiting actions of small batches, as if a worker had taken and
// returned them.
func (b *Bundle) CreateTasks() {
	b.T.Helper()
	for _, queue := range b.Tasks.QueuesOf(Crm(batch.Interactive)) {
		for Must(b.DB.Client.Exists(b.Ctx, tasks.FairPrefix(queue)+"o").Result()) > 0 {
			answer, _ := b.Poll(&tasks.Poll{Queue: queue, Want: 1000})
			slices.Reverse(answer) // the last one is taken first
			require.Equal(b.T, len(answer), Must(b.Tasks.Requeue(b.Ctx, queue, answer)))
		}
	}
}

// Poll polls a queue. It returns the ids of the tasks that the poll took, and whether more wait.
func (b *Bundle) Poll(p *tasks.Poll) (ids []string, more bool) {
	b.T.Helper()
	ids, more, err := b.PollFor(b.Ctx, p)
	require.NoError(b.T, err)
	return ids, more
}

// PollFor is Poll with a context of the caller, and returns the error.
func (b *Bundle) PollFor(ctx context.Context, p *tasks.Poll) (ids []string, more bool, err error) {
	p.Message = tasks.NewMessageTemplate(p.Queue, tasks.TaskAction).Around()
	pipe := b.DB.Client.Pipeline()
	p.Add(ctx, pipe)
	b.DB.Send(ctx, pipe)
	return p.Read(ctx, b.DB)
}

// DropTask deletes the task of an action, as an operator may.
func (b *Bundle) DropTask(id string, index int) {
	b.T.Helper()
	b.CreateTasks()
	require.NoError(b.T, b.Inspector().DeleteTask(b.Tasks.QueueOf(Crm(batch.Interactive), id, index), tasks.TaskID(id, index, "")))
}

// ExpireLeases sets the leases of all running tasks to the past, and makes the sweeper look for expired
// leases in its next round.
func (b *Bundle) ExpireLeases() {
	b.T.Helper()
	for _, id := range b.Active() {
		queues, err := b.Tasks.TaskQueues(b.Ctx)
		require.NoError(b.T, err)
		for _, queue := range queues {
			entry := redis.Z{Member: id, Score: float64(time.Now().Add(-time.Second).Unix())}
			require.NoError(b.T, b.DB.Client.ZAddXX(b.Ctx, tasks.AsynqPrefix(queue)+"lease", entry).Err())
		}
	}
	b.Sweeper.Timing.CheckLeasesEvery = 0
}

// Span returns the indexes from one up to another, without the latter.
func Span(from, to int) (indexes []int) {
	for i := from; i < to; i++ {
		indexes = append(indexes, i)
	}
	return indexes
}
