package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
)

// asynqInterval is how long a server sleeps when it finds no task, plus or minus a
// half. Compared with 1 ms and 3 ms it makes the peer answer small batches fastest, and
// costs nothing measurable while there are tasks. It would be too short for an idle
// production system.
const asynqInterval = 250 * time.Microsecond

// asynqServers is the state that the asynq servers of this process share. Each server
// has its part of the requests in flight.
type asynqServers struct {
	http    *http.Client
	target  string
	batches sync.Map // name → *atomic.Int64, the number of tasks that have ended
	ended   func(ctx context.Context, batch string) error
}

// startAsynqServers starts servers that run until the process ends.
func startAsynqServers(addr, target string, servers, inFlight int, ended func(context.Context, string) error) error {
	s := &asynqServers{http: newHTTPClient(inFlight, nil), target: target, ended: ended}
	for i := range servers {
		share := (inFlight + i) / servers
		// Each server has its own pool, so that none waits for another's connection.
		rdb := redis.NewClient(&redis.Options{Addr: addr, PoolSize: share + 4})
		server := asynq.NewServerFromRedisClient(rdb, asynq.Config{
			Concurrency: share, TaskCheckInterval: asynqInterval, LogLevel: asynq.ErrorLevel,
		})
		if err := server.Start(asynq.HandlerFunc(s.handle)); err != nil {
			return fmt.Errorf("start an asynq server: %w", err)
		}
	}
	return nil
}

// handle sends one task's request and stores the answer as the task's result.
func (s *asynqServers) handle(ctx context.Context, t *asynq.Task) error {
	var task asynqTask
	if err := json.Unmarshal(t.Payload(), &task); err != nil {
		return fmt.Errorf("decode a task: %w", err)
	}
	status, answer, err := exchange(ctx, s.http, s.target, bytes.NewReader(task.Body))
	if err != nil {
		return err
	}
	written, err := json.Marshal(asynqAnswer{Status: status, Body: answer})
	if err != nil {
		return fmt.Errorf("encode a result: %w", err)
	}
	if _, err := t.ResultWriter().Write(written); err != nil {
		return fmt.Errorf("write a result: %w", err)
	}
	counter, _ := s.batches.LoadOrStore(task.Batch, new(atomic.Int64))
	if done, ok := counter.(*atomic.Int64); ok && done.Add(1) == int64(task.Of) {
		s.batches.Delete(task.Batch)
		return s.ended(ctx, task.Batch)
	}
	return nil
}

// runAsynq is the subcommand "asynq": the servers, in a process of their own. With
// --times it runs batches of ten from the same process, one after another, and prints
// their durations.
func runAsynq(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("asynq", flag.ContinueOnError)
	addr := flags.String("redis", "", "address of Redis")
	target := flags.String("target", "", "URL of the target")
	servers := flags.Int("servers", 1, "number of servers")
	inFlight := flags.Int("in-flight", 64, "tasks in flight, over all servers")
	times := flags.Int("times", 0, "run so many small batches, and end")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *times > 0 {
		return runAsynqLatency(ctx, *addr, *target, *servers, *inFlight, *times)
	}
	rdb := redis.NewClient(&redis.Options{Addr: *addr})
	err := startAsynqServers(*addr, *target, *servers, *inFlight, func(ctx context.Context, batch string) error {
		return rdb.Publish(ctx, asynqChannel(batch), "").Err()
	})
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stdout, "listening on Redis")
	<-ctx.Done()
	return nil
}

// asynqLatency is the output of the subcommand for small batches.
type asynqLatency struct {
	Took []time.Duration `json:"took"` // nanoseconds
}

// runAsynqLatency signals the end of a batch from goroutine to goroutine, which is
// faster than any message through Redis.
func runAsynqLatency(ctx context.Context, addr, target string, servers, inFlight, times int) error {
	ended := make(chan struct{}, 1)
	err := startAsynqServers(addr, target, servers, inFlight, func(context.Context, string) error {
		ended <- struct{}{}
		return nil
	})
	if err != nil {
		return err
	}
	c := newAsynqClient(addr)
	c.await = func(context.Context, string) (func() error, error) {
		return func() error { <-ended; return nil }, nil
	}
	took, err := smallBatches(ctx, c, times)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(asynqLatency{Took: took})
}
