package tasks

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Types of asynq tasks.
const (
	// TaskAction is the type of a task that runs one action.
	TaskAction = "action"
	// TaskWebhook is the type of a task that delivers one batch's webhook.
	TaskWebhook = "webhook"
)

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

// TaskID is the same for every enqueueing of an action in one round of its batch,
// so that asynq refuses a second task while there is one. A retry is another round: the
// task of the one before may still stand in asynq's books.
func TaskID(id string, index int, round string) string {
	if round == "" {
		return id + ":" + strconv.Itoa(index)
	}
	return id + ":" + strconv.Itoa(index) + ":" + round
}

const (
	// FanOutChunk is the number of tasks made, or actions handed out, in one exchange.
	FanOutChunk = 100
)

// ParseTaskID returns the batch and the index of the action that a task with that id
// runs; see taskID.
func ParseTaskID(task string) (id string, index int, ok bool) {
	id, rest, _ := strings.Cut(task, ":")
	number, _, _ := strings.Cut(rest, ":")
	index, err := strconv.Atoi(number)
	return id, index, err == nil && index >= 0 && id != ""
}
