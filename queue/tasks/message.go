package tasks

import (
	"slices"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/batchd/batchd/internal/batch"
)

// Fields of asynq's message of a task, a protocol buffer (TaskMessage in asynq's internal/proto). asynq
// exports no function that encodes it, so this file does, and a test compares the messages with those of
// asynq's client.
const (
	fieldType    protowire.Number = 1
	fieldPayload protowire.Number = 2
	fieldID      protowire.Number = 3
	fieldQueue   protowire.Number = 4
	fieldRetry   protowire.Number = 5
	fieldTimeout protowire.Number = 8
)

const (
	// TaskTimeout is the timeout of tasks in their messages. The handlers' own timeouts are shorter.
	TaskTimeout = batch.MaxTimeout + time.Hour
	// maxRetry is the number of retries in messages. It is so large that asynq never archives a task: the
	// ledger decides when an action or a delivery ends.
	maxRetry = 1 << 30
)

// MessageTemplate encodes the messages of the tasks of one kind in one queue.
type MessageTemplate struct {
	kind       string
	head, tail []byte // the fields before and after the payload and the id
}

// MessageParts are the bytes of a message before the payload's length, between the payload and the id's
// length, and after the id. A poll creates messages from them in Lua.
type MessageParts [3][]byte

// NewMessageTemplate returns the template of a kind of tasks in a queue.
func NewMessageTemplate(queue, kind string) *MessageTemplate {
	m := &MessageTemplate{kind: kind, head: appendField(nil, fieldType, kind), tail: appendField(nil, fieldQueue, queue)}
	for _, f := range []struct {
		number protowire.Number
		value  uint64
	}{{fieldRetry, maxRetry}, {fieldTimeout, uint64(TaskTimeout.Seconds())}} {
		m.tail = protowire.AppendTag(m.tail, f.number, protowire.VarintType)
		m.tail = protowire.AppendVarint(m.tail, f.value)
	}
	return m
}

// Around returns the parts of a message around the payload and the id.
func (m *MessageTemplate) Around() MessageParts {
	before := protowire.AppendTag(slices.Clone(m.head), fieldPayload, protowire.BytesType)
	return MessageParts{before, protowire.AppendTag(nil, fieldID, protowire.BytesType), m.tail}
}

// Message returns the message of one task.
func (m *MessageTemplate) Message(id string, payload []byte) []byte {
	out := make([]byte, 0, len(m.head)+len(m.tail)+len(id)+len(payload)+2*(1+protowire.SizeVarint(uint64(len(id)+len(payload)))))
	out = append(out, m.head...)
	out = appendField(out, fieldPayload, payload)
	out = appendField(out, fieldID, id)
	return append(out, m.tail...)
}

func appendField[T string | []byte](out []byte, number protowire.Number, value T) []byte {
	out = protowire.AppendTag(out, number, protowire.BytesType)
	out = protowire.AppendVarint(out, uint64(len(value)))
	return append(out, value...)
}
