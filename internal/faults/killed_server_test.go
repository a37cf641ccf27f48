package faults

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/client"
)

// startServe starts an API and a worker in one process, on the world's address.
func (w *world) startServe() *process {
	w.t.Helper()
	p := w.start("serve", "serve", "--listen", w.apiAddr, "--config", w.config("serve"))
	p.awaitLog("batchd is up")
	p.awaitLog("worker started")
	return p
}

// A single process runs everything. It is killed repeatedly while clients run small
// batches, which it takes as it accepts them. No client waits for half of them. Every
// acknowledged batch ends.
func TestAKilledServerLosesNothingThatWasAcknowledged(t *testing.T) {
	scenario(t)
	const size = 10
	kills := scale(3, 20)
	w := newWorld(t)
	w.concurrency = 64
	server := w.startServe()
	// Without an idempotency key, the server stores a small batch in one exchange.
	hasty, err := client.New("http://"+w.apiAddr, client.WithRetryFor(0))
	require.NoError(t, err)
	var mu sync.Mutex
	var acked []*planned
	whole := 0
	var clients sync.WaitGroup
	over := make(chan struct{})
	for c := range 3 {
		clients.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-over:
					return
				case <-time.After(50 * time.Millisecond):
				}
				p := plan(fmt.Sprintf("s%d.%d", c, n), size, http.MethodPost, http.MethodGet)
				doc, _ := json.Marshal(map[string]any{"actions": p.actions}) // actions always encode
				b, err := hasty.SubmitJSON(t.Context(), bytes.NewReader(doc), client.Options{Wait: time.Duration(n%2) * 5 * time.Second})
				if problem := (*client.Problem)(nil); errors.As(err, &problem) && problem.Status != http.StatusServiceUnavailable {
					t.Errorf("submit %s: %v", p.tag, err)
				}
				if err != nil {
					continue // it was killed
				}
				p.id = b.ID
				mu.Lock()
				acked = append(acked, p)
				if b.Status.Terminal() {
					whole++
				}
				mu.Unlock()
			}
		})
	}
	for range kills {
		time.Sleep(time.Second + rand.N(time.Second))
		server.kill()
		server = w.startServe()
	}
	back := time.Now()
	time.Sleep(time.Second)
	close(over)
	clients.Wait()
	w.settle(60*time.Second, acked...)
	ended := time.Since(back)
	sum := w.verifyAll(acked)
	figure(t, "killed server: kills=%d batches=%d with_their_results=%d outcomes=%v, last batch ended %.1fs after the last restart", kills, len(acked), whole, sum, ended.Seconds())
	require.Equal(t, len(acked)*size, sum[client.Succeeded]+sum[client.Unknown], "%v", sum)
	require.LessOrEqual(t, sum[client.Unknown], kills*2*w.concurrency)
	require.Positive(t, whole)
	require.Less(t, whole, len(acked))
}
