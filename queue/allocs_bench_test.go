package queue_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/redistest"
	"github.com/batchd/batchd/queue"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/rdb"
)

// answered is the result of an action whose request had 200 bytes, all of which
// came back.
func answered(i int) *batch.Result {
	r := queuetest.Result(i, batch.Succeeded)
	r.Headers = []batch.Field{{Name: "content-length", Value: "200"}, {Name: "content-type", Value: "application/json"}, {Name: "date", Value: "Thu, 01 Jan 1970 00:00:00 GMT"}}
	r.Body = []byte(`{"p":"` + strings.Repeat("x", 192) + `"}`)
	return r
}

// submitted returns the id of a batch of n actions.
func submitted(b *testing.B, s *queue.Store, n int) string {
	b.Helper()
	u, err := s.Open(b.Context(), "me", "")
	require.NoError(b, err)
	for i := range n {
		a := queuetest.Action(i)
		a.Body = answered(i).Body
		require.NoError(b, u.Add(b.Context(), a))
	}
	got, _, err := u.Commit(b.Context(), queuetest.Spec())
	require.NoError(b, err)
	s.Background.Wait()
	return got.ID
}

// BenchmarkSubmit counts what an action costs until its task is in its queue.
func BenchmarkSubmit(b *testing.B) {
	s, err := queue.Open(queue.Config{Redis: rdb.Config{URL: rdb.URL(redistest.Start(b).URL())}})
	require.NoError(b, err)
	defer s.Close()
	b.ReportAllocs()
	b.ResetTimer()
	submitted(b, s, b.N)
}

// BenchmarkBeginFinish counts what an action costs from its begin to its end in
// the ledger, 32 of them at a time.
func BenchmarkBeginFinish(b *testing.B) {
	s, err := queue.Open(queue.Config{Redis: rdb.Config{URL: rdb.URL(redistest.Start(b).URL())}})
	require.NoError(b, err)
	defer s.Close()
	id := submitted(b, s, b.N)
	var next atomic.Int64
	b.SetParallelism(16)
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		r := answered(0)
		for pb.Next() {
			i := int(next.Add(1)) - 1
			begun, err := s.Ledger.Begin(context.Background(), id, i, "w1")
			if err != nil || begun.Verdict != batch.Run {
				b.Errorf("begin action %d: %v, %v", i, begun, err)
				return
			}
			own := *r
			own.Index = i
			if err := s.Ledger.Finish(context.Background(), id, i, begun.Token, &own); err != nil {
				b.Errorf("finish action %d: %v", i, err)
				return
			}
		}
	})
}

// BenchmarkResults counts what a result costs to be read, of 1,000 at a time.
func BenchmarkResults(b *testing.B) {
	const together = 1000
	s, err := queue.Open(queue.Config{Redis: rdb.Config{URL: rdb.URL(redistest.Start(b).URL())}})
	require.NoError(b, err)
	defer s.Close()
	id := submitted(b, s, together)
	for i := range together {
		begun, err := s.Ledger.Begin(b.Context(), id, i, "w1")
		require.NoError(b, err)
		require.NoError(b, s.Ledger.Finish(b.Context(), id, i, begun.Token, answered(i)))
	}
	b.ReportAllocs()
	b.ResetTimer()
	for left := b.N; left > 0; left -= together {
		page, err := s.Results(b.Context(), "me", id, batch.ResultQuery{Limit: min(left, together)})
		require.NoError(b, err)
		require.Len(b, page.Results, min(left, together))
	}
}
