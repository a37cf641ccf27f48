package consumer

import (
	"context"
	"crypto/rand"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/redistest"
	"github.com/batchd/batchd/queue"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/rdb"
)

// BenchmarkSteps reports what each step of an action's life costs Redis, as Redis
// counts it, and in this process: per action, of 32 that share a step.
func BenchmarkSteps(b *testing.B) {
	const together, total = 32, 3200
	s, err := queue.Open(queue.Config{Redis: rdb.Config{URL: rdb.URL(redistest.Start(b).URL())}})
	require.NoError(b, err)
	defer s.Close()
	ctx := b.Context()
	spent := func() (usec, calls float64) {
		info, err := s.DB.Client.Info(ctx, "commandstats").Result()
		require.NoError(b, err)
		for line := range strings.SplitSeq(info, "\r\n") {
			if rest, ok := strings.CutPrefix(line, "cmdstat_evalsha:"); ok {
				for field := range strings.SplitSeq(rest, ",") {
					name, value, _ := strings.Cut(field, "=")
					n, _ := strconv.ParseFloat(value, 64)
					switch name {
					case "usec":
						usec = n
					case "calls":
						calls = n
					}
				}
			}
		}
		return usec, calls
	}
	cost := map[string]float64{}
	phase := func(name string, f func()) {
		before, _ := spent()
		began := time.Now()
		f()
		took := time.Since(began)
		after, _ := spent()
		cost[name+"-redis-us"] += (after - before) / total
		cost[name+"-wall-us"] += float64(took.Microseconds()) / total
	}
	all := func(f func(i int) error) {
		for from := 0; from < total; from += together {
			errs := make(chan error, together)
			for i := from; i < from+together; i++ {
				go func() { errs <- f(i) }()
			}
			for range together {
				require.NoError(b, <-errs)
			}
		}
	}
	body := []byte(`{"p":"` + rand.Text() + strings.Repeat("x", 180) + `"}`)
	answer := func(i int) *batch.Result {
		r := queuetest.Result(i, batch.Succeeded)
		r.Headers = []batch.Field{{Name: "content-type", Value: "application/json"}, {Name: "content-length", Value: "200"}}
		r.Body = body
		return r
	}
	for b.Loop() {
		var id string
		phase("submit", func() {
			u, err := s.Open(ctx, "me", "")
			require.NoError(b, err)
			for i := range total {
				a := queuetest.Action(i)
				a.Body = body
				require.NoError(b, u.Add(ctx, a))
			}
			sp := queuetest.Spec()
			got, _, err := u.Commit(ctx, sp)
			require.NoError(b, err)
			id = got.ID
			s.Background.Wait()
		})
		t := newConsumer(New(s), ServerConfig{Targets: []Target{{Name: "crm", Slots: together}}})
		target := t.targets[0]
		var taken []*task
		phase("take", func() {
			for len(taken) < total {
				target.poll(true)
				for range len(target.handed()) {
					k := <-target.handed()
					taken = append(taken, k)
					k.queue.target.slots.count(k.queue, -1)
					target.slots.running--
				}
				for _, q := range target.queues {
					q.maybeNonEmpty = q.bulk
				}
			}
		})
		phase("done", func() {
			for i, k := range taken {
				k.queue.end(k.id)
				if i%together == together-1 {
					target.poll(false)
				}
			}
		})
		tokens := make([]batch.Token, total)
		phase("begin", func() {
			all(func(i int) error {
				begun, err := s.Ledger.Begin(context.Background(), id, i, "w1")
				if err == nil {
					tokens[i] = begun.Token
				}
				return err
			})
		})
		phase("finish", func() {
			all(func(i int) error { return s.Ledger.Finish(context.Background(), id, i, tokens[i], answer(i)) })
		})
		require.Equal(b, batch.StatusCompleted, queuetest.Must(s.Get(ctx, "me", id, 0)).Status)
		require.NoError(b, s.Delete(ctx, "me", id))
	}
	for name, v := range cost {
		b.ReportMetric(v/float64(b.N), name)
	}
}
