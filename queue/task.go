package queue

import (
	"errors"
	"fmt"
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

// QueueName returns the asynq queue of a target's lane.
func QueueName(target string, lane batch.Lane) string { return target + "." + string(lane) }

// errTask says that a task is none of ours.
var errTask = errors.New("malformed task payload")

// payloadVersion is raised when the payload changes, so that workers of two
// versions can share a queue.
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

// taskID is the same for every enqueueing of an action, so that asynq refuses a second
// task while there is one.
func taskID(id string, index int) string { return id + ":" + strconv.Itoa(index) }
