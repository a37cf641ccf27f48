package queue

import (
	"context"
	"errors"
	"fmt"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
	"google.golang.org/protobuf/encoding/protowire"
)

// taskForm is what asynq's client writes of a task of some kind, with blanks for its
// id and payload. asynq keeps the form of its tasks to itself; this way each is what
// its own client would have made, and thousands are made at the price of one.
type taskForm struct {
	kind  string
	parts []formPart
	size  int // of what is not blank
}

// formPart is a field of the message, a protocol buffer.
type formPart struct {
	text  []byte // as it stands, or with the length and value of a blank to follow
	blank blank
}

type blank int

const (
	none blank = iota
	blankID
	blankPayload
)

// What stands for the blanks in the task that the form is taken from.
const (
	formID      = "\x00id"
	formPayload = "\x00payload"
)

// errForm says that asynq writes its tasks in another way than this package knows.
var errForm = errors.New("asynq's message of a task has another form than expected")

// taskForm asks asynq's client for a form.
func (s *Store) taskForm(ctx context.Context, queue, kind string) (*taskForm, error) {
	r := &recorder{UniversalClient: s.rdb}
	_, err := asynq.NewClientFromRedisClient(r).EnqueueContext(ctx, asynq.NewTask(kind, []byte(formPayload)),
		asynq.Queue(queue), asynq.TaskID(formID), asynq.MaxRetry(forever), asynq.Timeout(taskTimeout))
	if err != nil {
		return nil, fmt.Errorf("take the form of a task: %w", err)
	}
	form := &taskForm{kind: kind}
	seen := map[blank]int{}
	for rest := r.message; len(rest) > 0; {
		number, typ, tag := protowire.ConsumeTag(rest)
		if tag < 0 {
			return nil, errForm
		}
		value := protowire.ConsumeFieldValue(number, typ, rest[tag:])
		if value < 0 {
			return nil, errForm
		}
		part := formPart{text: rest[:tag+value]}
		if typ == protowire.BytesType {
			bytes, _ := protowire.ConsumeBytes(rest[tag:])
			switch string(bytes) {
			case formID:
				part = formPart{text: rest[:tag], blank: blankID}
			case formPayload:
				part = formPart{text: rest[:tag], blank: blankPayload}
			}
		}
		seen[part.blank]++
		form.parts = append(form.parts, part)
		form.size += len(part.text)
		rest = rest[tag+value:]
	}
	if seen[blankID] != 1 || seen[blankPayload] != 1 {
		return nil, errForm
	}
	return form, nil
}

// message fills the form in.
func (f *taskForm) message(id string, payload []byte) []byte {
	out := make([]byte, 0, f.size+len(id)+len(payload)+2*protowire.SizeVarint(uint64(len(id)+len(payload))))
	for _, part := range f.parts {
		out = append(out, part.text...)
		switch part.blank {
		case blankID:
			out = protowire.AppendString(out, id)
		case blankPayload:
			out = protowire.AppendBytes(out, payload)
		case none:
		}
	}
	return out
}

// recorder keeps the message that asynq's client would send.
type recorder struct {
	redis.UniversalClient
	message []byte
}

// SAdd is the announcement of a queue.
func (r *recorder) SAdd(context.Context, string, ...any) *redis.IntCmd {
	return redis.NewIntResult(1, nil)
}

// EvalSha is the step that enqueues a task: its arguments are message, id and time.
func (r *recorder) EvalSha(_ context.Context, _ string, _ []string, args ...any) *redis.Cmd {
	message, ok := args[0].([]byte)
	if len(args) != 3 || !ok {
		return redis.NewCmdResult(nil, errForm)
	}
	r.message = message
	return redis.NewCmdResult(int64(1), nil)
}
