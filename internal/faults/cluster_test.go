package faults

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/client"
	"github.com/batchd/batchd/internal/redistest"
)

// clusterEvents are events in a cluster. Each function returns when the cluster is
// complete again.
var clusterEvents = []struct {
	name string
	run  func(t *testing.T, c *redistest.Cluster)
}{
	{"kill -9 of a master", func(t *testing.T, c *redistest.Cluster) {
		t.Helper()
		master := c.Masters()[0]
		master.Kill()
		c.AwaitMasters(3)
		master.Restart()
		c.AwaitReplicas(3)
	}},
	{"reshard of 2500 slots", func(t *testing.T, c *redistest.Cluster) {
		t.Helper()
		masters := c.Masters()
		c.Reshard(masters[0], masters[1], 2500)
	}},
	{"SIGSTOP and SIGCONT of a master", func(t *testing.T, c *redistest.Cluster) {
		t.Helper()
		master := c.Masters()[2]
		master.Freeze()
		c.AwaitMasters(3) // its replica has taken over
		time.Sleep(time.Second)
		master.Thaw()
		c.AwaitReplicas(3)
	}},
}

// A cluster loses masters under load and moves its slots. Its replicas may lack the last
// writes of a dead master, so a batch may be gone. Every remaining batch is complete and
// ends, and afterwards every worker uses all its slots.
func TestAClusterLosesMastersAndNoWorkerLosesItsSlots(t *testing.T) {
	scenario(t)
	const workers = 3
	cluster := redistest.NewCluster(t, true, append(durable, "--cluster-node-timeout", "2000", "--repl-diskless-sync-delay", "0")...)
	w := newWorldOn(t, cluster.URL())
	w.lossy = true
	w.target.delay = 5 * time.Millisecond
	w.startAPI()
	for i := range workers {
		w.startWorker(fmt.Sprint("w", i))
	}
	for round := range scale(1, 5) {
		load := w.startLoad(3, 20)
		eventually(t, 30*time.Second, func() bool { return len(load.batches()) > 5 }, "nothing is accepted")
		for _, event := range clusterEvents {
			began := time.Now()
			event.run(t, cluster)
			whole := time.Now()
			eventually(t, time.Minute, func() bool { return load.ackedAfter(whole) }, "nothing is accepted after the %s", event.name)
			figure(t, "cluster: %s: took %.1fs, accepted again after %.1fs", event.name, whole.Sub(began).Seconds(), time.Since(whole).Seconds())
		}
		last := time.Now()
		batches := load.stop()
		kept := w.kept(batches)
		w.settle(time.Until(last.Add(30*time.Second)), kept...)
		ended := time.Since(last)
		sum := w.verifyAll(kept)
		w.useAllSlots(round, workers)
		figure(t, "cluster: batches=%d gone=%d outcomes=%v POSTs sent twice=%d, last batch ended %.1fs after the last event",
			len(batches), len(batches)-len(kept), sum, w.sentTwice(batches), ended.Seconds())
	}
}

// kept returns the batches that Redis did not lose.
func (w *world) kept(batches []*planned) []*planned {
	w.t.Helper()
	return slices.DeleteFunc(slices.Clone(batches), func(p *planned) bool {
		_, err := w.client.Get(w.t.Context(), p.id, 0)
		problem := &client.Problem{}
		if errors.As(err, &problem) && problem.Status == http.StatusNotFound {
			return true
		}
		require.NoError(w.t, err)
		return false
	})
}

// sentTwice counts the POSTs that arrived more than once.
func (w *world) sentTwice(batches []*planned) (twice int) {
	for _, p := range batches {
		for _, a := range p.actions {
			if a.Method == http.MethodPost && len(w.target.of(a.ID)) > 1 {
				twice++
			}
		}
	}
	return twice
}

// useAllSlots checks that every worker has as many requests in flight as it has slots.
func (w *world) useAllSlots(round, workers int) {
	w.t.Helper()
	hold := make(chan struct{})
	w.target.set(func(x *target) { x.gate = func(*visit) <-chan struct{} { return hold } })
	p := plan(fmt.Sprintf("slots%d", round), 4*workers*w.concurrency, http.MethodPost, http.MethodGet)
	w.submit(p, client.Options{})
	for i := range workers {
		name := fmt.Sprint("w", i)
		eventually(w.t, time.Minute, func() bool { return w.target.flying(name) == w.concurrency }, "%s does not use its %d slots", name, w.concurrency)
	}
	w.target.set(func(x *target) { x.gate = nil })
	close(hold)
	w.settle(30*time.Second, p)
	found, _ := w.verify(p)
	require.Equal(w.t, tally{client.Succeeded: len(p.actions)}, found)
}
