package worker

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/redistest"
	"github.com/batchd/batchd/queue"
	"github.com/batchd/batchd/queue/batches"
	"github.com/batchd/batchd/queue/consumer"
	"github.com/batchd/batchd/queue/ledger"
	"github.com/batchd/batchd/queue/rdb"
)

// behindProxy sets up a worker that reaches its store through a proxy. Tests submit and
// read batches without the proxy.
func behindProxy(t *testing.T) (*bundle, *redistest.Proxy) {
	t.Helper()
	b := setup(t, func(context.Context, *batch.Request, int) *batch.Response { return answer(200) })
	server := redistest.Start(t)
	proxy := redistest.StartProxy(t, server.Addr)
	open := func(url string) *queue.Store {
		s, err := queue.Open(queue.Config{Redis: rdb.Config{URL: rdb.URL(url)}})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, s.Close()) })
		return s
	}
	s := open(proxy.URL())
	b.store = open(server.URL())
	b.cfg.Ledger, b.cfg.Sweeper, b.cfg.Registry, b.cfg.Gate, b.cfg.NewServer = s.Ledger, s.Sweeper, s.Sweeper.Recovery, s.Gate, consumer.New(s).NewServer
	return b, proxy
}

// runsOf matches the runs of a step.
func runsOf(step *rdb.Step) func(words []string) bool {
	return func(words []string) bool { return words[0] == "EVALSHA" && words[1] == step.Hash() }
}

// readsContent matches commands that read actions.
func readsContent(words []string) bool {
	return words[0] == "HMGET" && strings.HasSuffix(words[1], "}:a")
}

func TestAResultIsOfferedAgainAfterEveryErrorReply(t *testing.T) {
	t.Parallel()
	b, proxy := behindProxy(t)
	b.run()
	b.wait(b.submit(1, "POST", nil)) // the steps are loaded
	for i, text := range []string{
		"ERR max number of clients reached",
		"NOPERM this user has no permissions to run the 'evalsha' command",
		"NOAUTH Authentication required.",
		"TOO_MANY_REQUESTS slow down",
		"ERR max daily request limit exceeded. Limit: 10000, Usage: 10001.",
		"ERR Error running script (call to f_9c4b1e): @user_script:12: -OOM command not allowed when used memory > 'maxmemory'.",
		"MISCONF Errors writing to the AOF file: No space left on device",
		"ERR unknown reason",
		"",
	} {
		way := []redistest.Way{redistest.Refused, redistest.Replaced}[i%2]
		stop := proxy.Answer(redistest.Rule{Reply: text, Match: runsOf(ledger.Steps.Finish), Way: way, Times: 5}) // go-redis itself repeats some commands
		id := b.submit(1, "POST", nil)
		require.Eventually(t, func() bool { return b.attempts(id, 0) == 1 }, 30*time.Second, time.Millisecond)
		_, results := b.wait(id)
		require.Positive(t, stop(), text)
		require.Equal(t, batch.Succeeded, results[0].Outcome, text)
		require.Equal(t, 1, b.attempts(id, 0), text)
	}
}

// A worker that ends cannot begin an action, or cannot read it. Another worker runs it:
// nothing was sent, so the result is certain.
func TestWhatAWorkerCouldNotBeginIsRunByAnother(t *testing.T) {
	t.Parallel()
	for name, rule := range map[string]redistest.Rule{
		"its content cannot be read":  {Reply: "NOPERM no permissions to run the 'hmget' command", Match: readsContent, Way: redistest.Refused},
		"its begin is refused":        {Reply: "TOO_MANY_REQUESTS slow down", Match: runsOf(ledger.Steps.Begin), Way: redistest.Refused},
		"the reply to it is replaced": {Reply: "TOO_MANY_REQUESTS slow down", Match: runsOf(ledger.Steps.Begin), Way: redistest.Replaced},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, proxy := behindProxy(t)
			stop := proxy.Answer(rule)
			release := proxy.Answer(redistest.Rule{Reply: "TOO_MANY_REQUESTS slow down", Match: runsOf(ledger.Steps.Release), Times: 3})
			end := b.run()
			id := b.submit(1, "POST", nil)
			require.Eventually(t, func() bool { return !proxy.Last().IsZero() }, 30*time.Second, time.Millisecond)
			end()
			require.Equal(t, 3, release(), "it goes on until the store gives an answer")
			require.Positive(t, stop())
			require.Zero(t, b.attempts(id, 0))
			b.cfg.Name = "w2"
			b.run()
			_, results := b.wait(id)
			require.Equal(t, batch.Succeeded, results[0].Outcome)
			require.Equal(t, 1, results[0].Attempts)
			require.Equal(t, 1, b.attempts(id, 0))
		})
	}
}

func TestAWebhookComesInTimeInSpiteOfErrorReplies(t *testing.T) {
	t.Parallel()
	for name, way := range map[string]redistest.Way{"refused": redistest.Refused, "replaced": redistest.Replaced} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, proxy := behindProxy(t)
			r := receive(t, func(call int) int {
				if call == 1 {
					return 500
				}
				return 204
			})
			stopReads := proxy.Answer(redistest.Rule{Reply: "TOO_MANY_REQUESTS slow down", Way: way, Times: 2, Match: runsOf(batches.Steps.Snapshot)})
			stopRecord := proxy.Answer(redistest.Rule{Reply: "TOO_MANY_REQUESTS slow down", Way: way, Times: 2, Match: runsOf(batches.Steps.Delivered)})
			id := b.withWebhook(r.URL)
			b.run()
			b.log(id, batch.DeliveryPending, 1)
			b.log(id, batch.DeliveryDelivered, 2)
			require.Equal(t, 2, stopReads())
			require.Positive(t, stopRecord())
			require.EqualValues(t, 2, r.calls.Load())
		})
	}
}
