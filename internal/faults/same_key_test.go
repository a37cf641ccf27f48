package faults

import (
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/client"
	"github.com/batchd/batchd/internal/redistest"
)

// A hundred clients submit one batch with one idempotency key, while their API
// processes are killed.
func TestOneIdempotencyKeyMakesOneBatch(t *testing.T) {
	scenario(t)
	const clients = 100
	size, kills := scale(20, 2_000), scale(2, 6)
	w := newWorld(t)
	addrs := []string{w.apiAddr, redistest.FreeAddr(t)}
	apis := []*process{w.startAPIOn(addrs[0]), w.startAPIOn(addrs[1])}
	w.startWorker("w0")
	p := plan("i", size, http.MethodPost)
	opts := client.Options{IdempotencyKey: client.NewIdempotencyKey()}

	ids := make([]string, clients)
	acked := make(chan struct{}, clients)
	var wg sync.WaitGroup
	start := time.Now()
	for i := range clients {
		c := w.newClient(addrs[i%2])
		wg.Go(func() {
			b, err := c.Submit(t.Context(), p.actions, opts)
			if err != nil {
				t.Errorf("client %d: %v", i, err)
				return
			}
			ids[i] = b.ID
			acked <- struct{}{}
		})
	}
	if !long {
		// An upload whose process is killed keeps its key busy for a minute. So the
		// short form kills only once there is a batch.
		<-acked
	}
	for k := range kills {
		time.Sleep(time.Duration(rand.N(200)) * time.Millisecond)
		apis[k%2].kill()
		apis[k%2] = w.startAPIOn(addrs[k%2])
	}
	wg.Wait()
	took := time.Since(start)
	require.False(t, t.Failed())
	for i, id := range ids {
		require.Equal(t, ids[0], id, "client %d got another batch", i)
	}
	p.id = ids[0]
	n := 0
	for b, err := range w.client.List(t.Context()) {
		require.NoError(t, err)
		require.Equal(t, p.id, b.ID)
		n++
	}
	require.Equal(t, 1, n)

	other := plan("j", size, http.MethodPost)
	_, err := w.client.Submit(t.Context(), other.actions, opts)
	problem := &client.Problem{}
	require.ErrorAs(t, err, &problem)
	require.Equal(t, http.StatusUnprocessableEntity, problem.Status)

	w.settle(time.Minute, p)
	sum, _ := w.verify(p)
	require.Equal(t, tally{client.Succeeded: size}, sum)
	require.Zero(t, w.target.seen(other.tag))
	figure(t, "one idempotency key: clients=%d kills_of_api=%d batches=%d outcomes=%v all answered after %.1fs", clients, kills, n, sum, took.Seconds())
}

// Clients submit one batch after another, while the API is killed: every batch
// exists, once.
func TestKilledAPIsLoseNothingThatWasAcknowledged(t *testing.T) {
	if !long {
		t.Skip("can take minutes: run it with -tags faults")
	}
	const kills = 20
	w := newWorld(t)
	w.target.delay = 5 * time.Millisecond
	api := w.startAPI()
	w.startWorker("w0")
	load := w.startLoad(3, 20)
	for range kills {
		time.Sleep(time.Second)
		api.kill()
		api = w.startAPI()
	}
	// A key whose upload was interrupted is busy for a minute, and its client waits for that.
	batches := load.stop()
	w.settle(150*time.Second, batches...)
	sum := w.verifyAll(batches)
	known := make(map[string]bool, len(batches))
	for _, p := range batches {
		known[p.id] = true
	}
	listed := 0
	for b, err := range w.client.List(t.Context()) {
		require.NoError(t, err)
		require.True(t, known[b.ID], "batch %s was never acknowledged", b.ID)
		listed++
	}
	require.Equal(t, len(batches), listed)
	require.Equal(t, tally{client.Succeeded: 20 * len(batches)}, sum)
	figure(t, "killed API: kills=%d batches=%d outcomes=%v", kills, len(batches), sum)
}
