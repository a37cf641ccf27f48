package queue

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/crash"
)

const (
	// inlineActions is the largest batch whose tasks are enqueued before the
	// submission is answered.
	inlineActions = 1000
	// fanOutChunk is the number of tasks enqueued in one exchange.
	fanOutChunk = 500
	// taskTimeout is how long asynq lets a handler run. The handler's own
	// bounds are shorter.
	taskTimeout = batch.MaxTimeout + time.Hour
	// forever keeps asynq from ever archiving a task: the ledger decides when
	// an action ends.
	forever = 1 << 30
)

// fanOut is the enqueueing of a batch's tasks, from an index on.
type fanOut struct {
	id, queue   string
	from, total int
	throttled   bool // handed out as the owner's limit allows; see feed
}

// fanouts keeps the fan-outs that run in the background.
type fanouts struct {
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

func newFanouts() *fanouts {
	f := &fanouts{}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	return f
}

func (f *fanouts) stop() {
	f.cancel()
	f.wg.Wait()
}

// startFanOut enqueues the tasks of a batch that was just committed: at once if they are few,
// else in the background. It answers no error, since the batch is accepted and
// the sweeper finishes what breaks off.
func (s *Store) startFanOut(ctx context.Context, f fanOut) {
	run := func(ctx context.Context) {
		hand := s.fanOut
		if f.throttled {
			hand = func(ctx context.Context, f fanOut) error { return s.feed(ctx, f.id) }
		}
		if err := hand(ctx, f); err != nil {
			s.log.WarnContext(ctx, "fan-out broke off, the sweeper will finish it", "batch", f.id, "error", err)
		}
	}
	done := make(chan struct{})
	s.fanouts.wg.Go(func() {
		defer close(done)
		run(s.fanouts.ctx)
	})
	if f.total > inlineActions {
		return
	}
	select {
	case <-done:
	case <-ctx.Done(): // it goes on, but its client is not kept waiting
	}
}

// fanOut enqueues one task an action. Doing it twice is harmless: asynq refuses
// a task whose id is taken, and the ledger an action that has ended.
func (s *Store) fanOut(ctx context.Context, f fanOut) error {
	for f.from < f.total {
		next := min(f.from+fanOutChunk, f.total)
		if _, err := s.enqueue(ctx, f.id, f.queue, span(f.from, next)); err != nil {
			return err
		}
		crash.At(crash.ChunkEnqueued)
		answer, err := s.run(ctx, s.steps.progress, []string{keysOf(f.id).meta}, next)
		if err != nil {
			return fmt.Errorf("note the progress: %w", err)
		}
		if answer[0] != "1" {
			return nil
		}
		f.from = next
		crash.At(crash.ChunkNoted)
	}
	crash.At(crash.FannedOut)
	return nil
}

// span returns the indexes from one up to another.
func span(from, to int) []int {
	indexes := make([]int, 0, to-from)
	for i := from; i < to; i++ {
		indexes = append(indexes, i)
	}
	return indexes
}

// enqueue enqueues actions in one exchange, and returns how many of them had no
// task until now.
func (s *Store) enqueue(ctx context.Context, id, queue string, indexes []int) (int, error) {
	ctx, cancel := s.within(ctx)
	defer cancel()
	r := &recorder{UniversalClient: s.rdb, pipe: s.rdb.Pipeline()}
	client := asynq.NewClientFromRedisClient(r)
	for _, i := range indexes {
		_, err := client.EnqueueContext(ctx, asynq.NewTask(TaskAction, EncodeTask(id, i)),
			asynq.Queue(queue), asynq.TaskID(taskID(id, i)), asynq.MaxRetry(forever), asynq.Timeout(taskTimeout))
		if err != nil {
			return 0, fmt.Errorf("encode task %d: %w", i, err)
		}
	}
	answers, err := r.pipe.Exec(ctx)
	if err != nil {
		return 0, fmt.Errorf("enqueue tasks: %w", mapError(ctx, err))
	}
	added := 0
	for _, answer := range answers {
		if made, ok := answer.(*redis.Cmd); ok && made.Val() == int64(1) {
			added++
		}
	}
	return added, nil
}

// recorder collects in a pipeline the commands that asynq's client would send
// one by one. asynq keeps the form of its tasks to itself; this way each stays
// exactly what asynq's own client makes.
type recorder struct {
	redis.UniversalClient
	pipe   redis.Pipeliner
	loaded bool
}

// SAdd records the announcement of a queue.
func (r *recorder) SAdd(ctx context.Context, key string, members ...any) *redis.IntCmd {
	r.pipe.SAdd(ctx, key, members...)
	return redis.NewIntResult(1, nil)
}

// EvalSha records a script by its digest. The first one is refused, so that
// asynq falls back to Eval and the pipeline carries the script's text once.
func (r *recorder) EvalSha(ctx context.Context, sha string, keys []string, args ...any) *redis.Cmd {
	if !r.loaded {
		return redis.NewCmdResult(nil, noScriptError{})
	}
	r.pipe.EvalSha(ctx, sha, keys, args...)
	return redis.NewCmdResult(int64(1), nil)
}

// Eval records a script by its text.
func (r *recorder) Eval(ctx context.Context, script string, keys []string, args ...any) *redis.Cmd {
	r.loaded = true
	r.pipe.Eval(ctx, script, keys, args...)
	return redis.NewCmdResult(int64(1), nil)
}

// noScriptError is Redis's answer to an unknown digest.
type noScriptError struct{}

// Error implements error.
func (noScriptError) Error() string { return "NOSCRIPT recorded by text" }

// RedisError marks the error as a server's.
func (noScriptError) RedisError() {}
