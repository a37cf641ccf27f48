package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
)

// The peer is a program that uses asynq alone: one task per action, with the request as
// its payload; a handler that sends the request and stores the answer as the task's
// result; and a client that enqueues, waits, and collects. Among the possible designs,
// it uses the fastest.

// asynqTask is the payload of a task. Of is the number of tasks in its batch.
type asynqTask struct {
	Batch  string          `json:"batch"`
	Of     int             `json:"of"`
	Method string          `json:"method"`
	Path   string          `json:"path"`
	Body   json.RawMessage `json:"body"`
}

// asynqAnswer is the result of a task.
type asynqAnswer struct {
	Status int             `json:"status"`
	Body   json.RawMessage `json:"body"`
}

const (
	asynqQueue = "default"
	asynqType  = "http"
	// asynqPage is the number of results that the client reads at once.
	asynqPage = 500
	// asynqConnections is the number of tasks enqueued, and of pages read, at a time.
	asynqConnections = 64
)

func asynqTaskID(batch string, index int) string { return batch + ":" + strconv.Itoa(index) }

// asynqClient enqueues batches, waits for their ends, and collects the results.
type asynqClient struct {
	redis     *redis.Client
	client    *asynq.Client
	inspector *asynq.Inspector
	finished  int // tasks of earlier runs in the list of completed tasks
	// await waits for the end of the batch. It is called before the first task is
	// enqueued.
	await func(ctx context.Context, batch string) (wait func() error, err error)
}

func newAsynqClient(addr string) *asynqClient {
	// One pool for both, as large as the number of requests in flight: asynq has no
	// pipelining, so several calls at a time need several connections.
	rdb := redis.NewClient(&redis.Options{Addr: addr, PoolSize: asynqConnections + 4})
	c := &asynqClient{redis: rdb, client: asynq.NewClientFromRedisClient(rdb), inspector: asynq.NewInspectorFromRedisClient(rdb)}
	c.await = c.awaitMessage
	return c
}

// awaitMessage waits for the message from the servers' process at the end of a batch.
func (c *asynqClient) awaitMessage(ctx context.Context, batch string) (func() error, error) {
	sub := c.redis.Subscribe(ctx, asynqChannel(batch))
	if _, err := sub.Receive(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("subscribe to the end of a batch: %w", err), sub.Close())
	}
	return func() error {
		defer sub.Close()
		select {
		case <-sub.Channel():
			return nil
		case <-ctx.Done():
			return fmt.Errorf("wait for the end of a batch: %w", context.Cause(ctx))
		}
	}, nil
}

func asynqChannel(batch string) string { return "bench:ended:" + batch }

func (c *asynqClient) run(ctx context.Context, name string, bodies [][]byte) (timing, []result, error) {
	wait, err := c.await(ctx, name)
	if err != nil {
		return timing{}, nil, err
	}
	var took timing
	began := time.Now()
	if err := c.enqueue(ctx, name, bodies); err != nil {
		return timing{}, nil, err
	}
	took.submitted = time.Since(began)
	if err := wait(); err != nil {
		return timing{}, nil, err
	}
	took.ended = time.Since(began)
	answers, err := c.collect(name, len(bodies))
	took.read = time.Since(began)
	if err != nil {
		return timing{}, nil, err
	}
	c.finished += len(bodies)
	results := make([]result, len(bodies))
	for i, raw := range answers {
		var answer asynqAnswer
		if err := json.Unmarshal(raw, &answer); err != nil {
			return timing{}, nil, fmt.Errorf("decode result %d: %w", i, err)
		}
		results[i] = result{index: i, status: answer.Status, body: answer.Body}
	}
	return took, results, nil
}

func (c *asynqClient) enqueue(ctx context.Context, name string, bodies [][]byte) error {
	return eachInParallel(asynqConnections, len(bodies), func(i int) error {
		payload, err := json.Marshal(asynqTask{Batch: name, Of: len(bodies), Method: http.MethodPost, Path: path, Body: bodies[i]})
		if err != nil {
			return fmt.Errorf("encode task %d: %w", i, err)
		}
		_, err = c.client.EnqueueContext(ctx, asynq.NewTask(asynqType, payload),
			asynq.TaskID(asynqTaskID(name, i)), asynq.MaxRetry(0), asynq.Timeout(time.Minute), asynq.Retention(time.Hour))
		if err != nil {
			return fmt.Errorf("enqueue task %d: %w", i, err)
		}
		return nil
	})
}

// collect reads the results of n tasks in their order. It reads a small batch task by
// task. For a large one it reads the list of completed tasks page by page, which is
// much faster. It reads a task singly if the server has written its result but not yet
// marked it as completed.
func (c *asynqClient) collect(name string, n int) ([][]byte, error) {
	answers := make([][]byte, n)
	if n > asynqPage {
		pages := (c.finished + n + asynqPage - 1) / asynqPage
		err := eachInParallel(asynqConnections, pages, func(page int) error {
			tasks, err := c.inspector.ListCompletedTasks(asynqQueue, asynq.PageSize(asynqPage), asynq.Page(page+1))
			if err != nil {
				return fmt.Errorf("list completed tasks: %w", err)
			}
			for _, task := range tasks {
				index, ours := strings.CutPrefix(task.ID, name+":")
				if i, err := strconv.Atoi(index); ours && err == nil && i < n {
					answers[i] = task.Result
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	err := eachInParallel(asynqConnections, n, func(i int) error {
		if answers[i] != nil {
			return nil
		}
		task, err := c.inspector.GetTaskInfo(asynqQueue, asynqTaskID(name, i))
		if err != nil {
			return fmt.Errorf("read result %d: %w", i, err)
		}
		answers[i] = task.Result
		return nil
	})
	return answers, err
}

// eachInParallel is inParallel with errors: it returns the first error.
func eachInParallel(goroutines, n int, do func(i int) error) error {
	var once sync.Once
	var first error
	inParallel(goroutines, n, func(i int) {
		if err := do(i); err != nil {
			once.Do(func() { first = err })
		}
	})
	return first
}

// startAsynq returns a starter of the peer with a number of servers in its process.
func startAsynq(servers int) starter {
	return func(ctx context.Context, w *world, load load) (contender, error) {
		p, err := w.startServer("asynq", w.self, "asynq", "--redis", w.redis.addr, "--target", w.targetURL,
			"--servers", strconv.Itoa(servers), "--in-flight", strconv.Itoa(load.inFlight))
		if err != nil {
			return nil, err
		}
		if _, err := p.await(ctx, listening); err != nil {
			return nil, err
		}
		return newAsynqClient(w.redis.addr), nil
	}
}
