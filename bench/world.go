package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// load is the work for a contender in a scenario.
type load struct {
	actions  int           // in one run
	size     int           // bytes of each body
	inFlight int           // requests to the target at a time, over all processes
	delay    time.Duration // the answer time of the target
}

// timing has the times of the stages of a run, from its start.
type timing struct {
	submitted time.Duration // all actions are accepted; 0 without storage
	ended     time.Duration // the last result can be read
	read      time.Duration // the client has all results, in their order
}

// contender runs actions.
type contender interface {
	// run runs the actions with these bodies as one batch with a name of its own.
	run(ctx context.Context, name string, bodies [][]byte) (timing, []result, error)
}

// world is the environment of one run of one contender: a new Redis, a new target, and
// the contender's processes. Nothing remains from an earlier run.
type world struct {
	*bench

	dir       string
	redis     *redisServer
	target    *process
	targetURL string
	servers   []*process // the contender's
	http      traffic    // between the client and batchd
	sent      int        // requests that the target must have received
}

// newWorld makes a world with the target's answer time and Redis's appendfsync.
func (b *bench) newWorld(ctx context.Context, delay time.Duration, fsync string) (_ *world, err error) {
	w := &world{bench: b}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	if w.dir, err = os.MkdirTemp(b.dir, "world-"); err != nil {
		return nil, fmt.Errorf("make a directory: %w", err)
	}
	if w.redis, err = startRedis(ctx, w.dir, fsync); err != nil {
		return nil, err
	}
	if w.target, err = startProcess(w.dir, "target", b.self, "target", "--delay", delay.String()); err != nil {
		return nil, err
	}
	w.targetURL, err = w.target.await(ctx, listening)
	return w, err
}

// startServer starts a process of the contender's.
func (w *world) startServer(name, program string, args ...string) (*process, error) {
	p, err := startProcess(w.dir, name, program, args...)
	if err == nil {
		w.servers = append(w.servers, p)
	}
	return p, err
}

// close kills all processes and removes their files.
func (w *world) close() error {
	for _, p := range w.servers {
		p.stop()
	}
	if w.target != nil {
		w.target.stop()
	}
	if w.redis != nil {
		w.redis.stop()
	}
	if w.dir == "" {
		return nil
	}
	return os.RemoveAll(w.dir)
}

// run runs n actions with the contender, and checks the results without measuring time.
func (w *world) run(ctx context.Context, c contender, name string, n, size int) error {
	bodies := makeBodies(name, n, size)
	_, results, err := c.run(ctx, name, bodies)
	if err != nil {
		return err
	}
	if err := w.verify(bodies, results); err != nil {
		return err
	}
	return w.checkRequests(ctx)
}

// verify checks the results of a run, and adds its requests to those that the target
// must have received.
func (w *world) verify(bodies [][]byte, results []result) error {
	w.sent += len(bodies)
	if err := check(bodies, results); err != nil {
		return fmt.Errorf("wrong results: %w", err)
	}
	return nil
}

// checkRequests checks that the target received one request for each action.
func (w *world) checkRequests(ctx context.Context) error {
	got, err := requestsAt(ctx, w.targetURL)
	if err == nil && got != w.sent {
		err = fmt.Errorf("wrong results: %d actions made %d requests to the target", w.sent, got)
	}
	return err
}
