package tasks

import (
	"slices"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/batchd/batchd/internal/batch"
)

// Fields of asynq's message of a task, which is a protocol buffer (TaskMessage in its
// internal/proto). asynq's client can write one only along with a task; a test compares what
// it writes with what is written here.
const (
	fieldType    protowire.Number = 1
	fieldPayload protowire.Number = 2
	fieldID      protowire.Number = 3
	fieldQueue   protowire.Number = 4
	fieldRetry   protowire.Number = 5
	fieldTimeout protowire.Number = 8
)

// messageTemplate is what the messages of the tasks of a type in a queue have in common.
type messageTemplate struct {
	kind       string
	head, tail []byte // what comes before the payload and the id, and after them
}

// MessageParts are the parts of a message around the payload and the id, without their lengths.
type MessageParts [3][]byte

// NewMessageTemplate returns a template of messages that asynq never archives: the ledger decides
// when an action ends.
func NewMessageTemplate(queue, kind string) *messageTemplate {
	m := &messageTemplate{kind: kind, head: appendField(nil, fieldType, kind), tail: appendField(nil, fieldQueue, queue)}
	for _, f := range []struct {
		number protowire.Number
		value  uint64
	}{{fieldRetry, Forever}, {fieldTimeout, uint64(TaskTimeout.Seconds())}} {
		m.tail = protowire.AppendTag(m.tail, f.number, protowire.VarintType)
		m.tail = protowire.AppendVarint(m.tail, f.value)
	}
	return m
}

// Around returns what a message has up to the payload's length, between the payload and the id's
// length, and after the id.
func (m *messageTemplate) Around() MessageParts {
	before := protowire.AppendTag(slices.Clone(m.head), fieldPayload, protowire.BytesType)
	return MessageParts{before, protowire.AppendTag(nil, fieldID, protowire.BytesType), m.tail}
}

// Message returns the message of one task.
func (m *messageTemplate) Message(id string, payload []byte) []byte {
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

const (
	// TaskTimeout is what asynq is told of how long a task may run. Handlers' own
	// bounds are shorter.
	TaskTimeout = batch.MaxTimeout + time.Hour
	// Forever keeps asynq from ever archiving a task: the ledger decides when
	// an action ends.
	Forever = 1 << 30
)
