package queue

import (
	"errors"
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"

	"github.com/batchd/batchd/internal/batch"
)

// Types of asynq tasks.
const (
	// TaskAction is the type of a task that runs one action.
	TaskAction = "action"
	// TaskWebhook is the type of a task that delivers one batch's webhook.
	TaskWebhook = "webhook"
)

// WebhookQueue is the asynq queue of webhooks.
const WebhookQueue = "webhooks"

// route is where the tasks of a batch go.
type route struct {
	target string
	lane   batch.Lane
}

// routeOf is that of a batch, by fields of its meta hash.
func routeOf(m map[string]string) route { return route{m["target"], batch.Lane(m["lane"])} }

const (
	// clusterShards is the number of asynq queues that a lane has on a cluster,
	// where a queue lives on one server and would be as fast as that. It must be
	// the same for all processes.
	clusterShards = 8
	// shardRun is the number of neighbours that go to the same one, since actions
	// that are taken together are begun together.
	shardRun = 64
)

// queueOf returns the asynq queue of an action's task.
func (s *Store) queueOf(r route, id string, index int) string {
	if s.shards == 1 {
		return r.target + "." + string(r.lane)
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(id)) // never fails
	return shardName(r, (int(h.Sum32()%clusterShards)+index/shardRun)%s.shards)
}

// queuesOf returns all asynq queues of a lane.
func (s *Store) queuesOf(r route) []string {
	if s.shards == 1 {
		return []string{s.queueOf(r, "", 0)}
	}
	names := make([]string, s.shards)
	for i := range names {
		names[i] = shardName(r, i)
	}
	return names
}

func shardName(r route, shard int) string {
	return r.target + "." + string(r.lane) + "." + strconv.Itoa(shard)
}

// errTask says that a task is none of ours.
var errTask = errors.New("malformed task payload")

// payloadVersion is raised when the payload changes. Runners go by the ids of tasks,
// which are to hold the same; see parseTaskID.
const payloadVersion = "1"

// EncodeTask returns the payload of an action's task: version, batch id and
// index, which is all that may stand in an asynq payload, since asynq keeps
// copies of it in clear.
func EncodeTask(id string, index int) []byte {
	return []byte(payloadVersion + ":" + id + ":" + strconv.Itoa(index))
}

// DecodeTask is the inverse of EncodeTask.
func DecodeTask(payload []byte) (id string, index int, err error) {
	version, rest, _ := strings.Cut(string(payload), ":")
	if version != payloadVersion {
		return "", 0, fmt.Errorf("%w: version %.10q: expected %s", errTask, version, payloadVersion)
	}
	id, number, ok := strings.Cut(rest, ":")
	index, err = strconv.Atoi(number)
	if !ok || id == "" || err != nil || index < 0 {
		return "", 0, errTask
	}
	return id, index, nil
}

// taskID is the same for every enqueueing of an action in one round of its batch,
// so that asynq refuses a second task while there is one. A retry is another round: the
// task of the one before may still stand in asynq's books.
func taskID(id string, index int, round string) string {
	if round == "" {
		return id + ":" + strconv.Itoa(index)
	}
	return id + ":" + strconv.Itoa(index) + ":" + round
}
