// Package tasks keeps asynq's data structures in Redis: the queues, and the tasks in them. Beside each asynq
// queue it keeps a fair queue of the actions that have no task yet.
//
// It enqueues, takes, ends, puts back and forwards tasks with Lua steps of its own, which do for many tasks
// in one exchange what asynq does for one, so that asynq's tools show and change the tasks. A task says only
// which action to run: package ledger decides what happens to the action. Package consumer runs tasks, and
// package fanout offers the actions of batches.
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

// errTask says that a payload was not written by [EncodeTask].
var errTask = errors.New("malformed task payload")

// payloadVersion changes with the payload. lua/poll.lua writes the same version.
const payloadVersion = "1"

// EncodeTask returns the payload of an action's task: version, batch id and index. A payload must not
// contain more, since asynq keeps copies of it in clear. The payload of a webhook's task has the number of
// the delivery as the index.
func EncodeTask(id string, index int) []byte {
	return []byte(payloadVersion + ":" + id + ":" + strconv.Itoa(index))
}

// DecodeTask is the inverse of [EncodeTask].
func DecodeTask(payload []byte) (id string, index int, err error) {
	version, rest, _ := strings.Cut(string(payload), ":")
	if version != payloadVersion {
		return "", 0, fmt.Errorf("%w: version %.10q: expected %s", errTask, version, payloadVersion)
	}
	id, number, _ := strings.Cut(rest, ":")
	index, ok := parseIndex(number)
	if !ok || id == "" {
		return "", 0, errTask
	}
	return id, index, nil
}

// TaskID returns the id of an action's task, which is the same whenever the action is enqueued in one round
// of its batch, so that asynq refuses a second task while there is one. A retry begins another round, since
// asynq may still have the task of the earlier round. In place of the round, [Queues.TokenTask] has a token.
func TaskID(id string, index int, round string) string {
	if round == "" {
		return id + ":" + strconv.Itoa(index)
	}
	return id + ":" + strconv.Itoa(index) + ":" + round
}

// FanOutChunk is the most actions that one exchange hands out, looks up, or enqueues tasks for.
const FanOutChunk = 100

// ParseTaskID returns the batch and the index of the action that the task with an id runs; see [TaskID].
func ParseTaskID(task string) (id string, index int, ok bool) {
	id, rest, _ := strings.Cut(task, ":")
	number, _, _ := strings.Cut(rest, ":")
	index, ok = parseIndex(number)
	return id, index, ok && id != ""
}

// parseIndex reads an index as it is written here: one index has one text.
func parseIndex(number string) (int, bool) {
	index, err := strconv.Atoi(number)
	return index, err == nil && index >= 0 && strconv.Itoa(index) == number
}
