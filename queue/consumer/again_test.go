package consumer

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/queue/queuetest"
)

// A task that comes again without delay goes back to its queue: the retry set is
// looked through only from time to time.
func TestATaskThatComesAgainAtOnceWaitsForNoRegularPoll(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		const n = 5
		runs := make(chan int, 2*n)
		failed := make(map[int]bool)
		server := b.consumers.NewServer(ServerConfig{
			Targets: []Target{{Name: "crm", Slots: 1}}, WebhookSlots: 1,
			Config: asynq.Config{
				LogLevel: asynq.FatalLevel, TaskCheckInterval: 10 * time.Millisecond, ShutdownTimeout: time.Second,
				RetryDelayFunc: func(int, error, *asynq.Task) time.Duration { return 0 },
			},
		})
		require.NoError(t, server.Start(Handlers{
			Action: func(_ string, index int, _ *Slot) error { // one at a time
				runs <- index
				if !failed[index] {
					failed[index] = true
					return errors.New("again")
				}
				return nil
			},
			Webhook: func(context.Context, *asynq.Task) error { return nil },
		}))
		defer server.Shutdown()
		b.Submit(n, queuetest.Spec())
		times := make(map[int]int)
		for range 2 * n {
			select {
			case index := <-runs:
				times[index]++
			case <-time.After(30 * time.Second):
				t.Fatal("a task does not come again")
			}
		}
		require.Equal(t, map[int]int{0: 2, 1: 2, 2: 2, 3: 2, 4: 2}, times)
	})
}
