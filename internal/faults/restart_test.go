package faults

import (
	"fmt"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/client"
)

// All workers are replaced one after another, in order, while a batch of POSTs runs.
func TestARollingRestartLosesAndRepeatsNothing(t *testing.T) {
	scenario(t)
	size := scale(2_000, 10_000)
	w := newWorld(t)
	w.target.delay = time.Duration(scale(100, 20)) * time.Millisecond // so that a short batch outlasts the restarts
	w.startAPI()
	workers := make([]*process, 4)
	for i := range workers {
		workers[i] = w.startWorker(fmt.Sprintf("w%d", i))
	}
	p := plan("r", size, http.MethodPost)
	start := time.Now()
	w.submit(p, client.Options{})
	var drains []time.Duration
	for i, old := range workers {
		due := size / 8 * (i + 1)
		eventually(t, time.Minute, func() bool { return w.target.seen(p.tag) >= due }, "the target saw %d", w.target.seen(p.tag))
		told := time.Now()
		old.signal(syscall.SIGTERM)
		require.Zero(t, old.exit(30*time.Second), "the exit code of %s", old.name)
		drains = append(drains, time.Since(told))
		w.startWorker(old.name)
	}
	require.Less(t, w.target.seen(p.tag), size, "the restarts came after the batch")
	w.settle(150*time.Second, p)
	took := time.Since(start)
	sum, _ := w.verify(p)
	require.Equal(t, tally{client.Succeeded: size}, sum)
	figure(t, "rolling restart: workers=%d actions=%d outcomes=%v took=%.1fs, from SIGTERM to the exit: %s", len(workers), size, sum, took.Seconds(), quantiles(drains))
}

// The first SIGTERM lets actions in flight end; a second one ends the process at once.
func TestASecondSIGTERMEndsAtOnce(t *testing.T) {
	scenario(t)
	w := newWorld(t)
	w.startAPI()
	worker := w.startWorker("w0")
	hold := make(chan struct{})
	defer close(hold)
	w.target.gate = func(*visit) <-chan struct{} { return hold }
	p := plan("t", 1, http.MethodPost)
	w.submit(p, client.Options{})
	eventually(t, 30*time.Second, func() bool { return w.target.seen(p.tag) == 1 }, "the action is not in flight")
	worker.signal(syscall.SIGTERM)
	worker.awaitLog("worker draining")
	select {
	case <-worker.done:
		t.Fatal("the worker did not wait for what it has in flight")
	case <-time.After(time.Second):
	}
	again := time.Now()
	worker.signal(syscall.SIGTERM)
	require.Equal(t, -1, worker.exit(5*time.Second), "a signal ends it")
	took := time.Since(again)
	figure(t, "second SIGTERM: exit after %s", took.Round(time.Millisecond))
}
