package queue_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/redistest"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/rdb"
)

// TestResultsBelongToTheirActionsAndCountsAddUp runs batches of any size in any
// order of completion, with any mix of outcomes, releases, repetitions and a
// cancellation at any point, while readers look on.
func TestResultsBelongToTheirActionsAndCountsAddUp(t *testing.T) {
	t.Parallel()
	for name, url := range map[string]string{"embedded": rdb.Embedded, "server": redistest.Start(t).URL()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := open(t, url)
			rapid.Check(t, func(r *rapid.T) { b.play(r) })
		})
	}
}

func (b *bundle) play(r *rapid.T) {
	n := rapid.IntRange(1, 30).Draw(r, "actions")
	seed := rapid.Uint64().Draw(r, "seed")
	cancelAt := rapid.IntRange(-1, n).Draw(r, "cancel at")
	random := rand.New(rand.NewPCG(seed, 1))
	id := b.Submit(n, queuetest.Spec()).ID

	steps := make(chan struct{}, n) // a look for each, while later ones go on
	var readers sync.WaitGroup
	faults := make(chan string, 8)
	for range 2 {
		readers.Go(func() {
			for range steps {
				got, err := b.Get(b.Ctx, "me", id, 0)
				if err != nil || got.Counts.Sum() != n || got.Counts.Total != n || got.Status.Terminal() != (got.Counts.Pending == 0) {
					select {
					case faults <- fmt.Sprint(got, err):
					default:
					}
				}
			}
		})
	}

	want := make([]batch.Outcome, n)
	order := random.Perm(n)
	finals := []batch.Outcome{batch.Succeeded, batch.Failed, batch.Errored, batch.Unknown, batch.Skipped}
	flying := map[int]batch.Token{}
	cancelled := false
	for step := 0; step < len(order); step++ {
		index := order[step]
		select {
		case steps <- struct{}{}:
		default: // the readers have enough to look at
		}
		if step == cancelAt {
			if _, err := b.Cancel(b.Ctx, "me", id); err != nil {
				r.Fatalf("cancel: %v", err)
			}
			cancelled = true
			for i := range want {
				if _, holds := flying[i]; want[i] == batch.Pending && !holds {
					want[i] = batch.Cancelled
				}
			}
		}
		token, holds := flying[index]
		if !holds {
			begun, err := b.Ledger.Begin(b.Ctx, id, index, "w")
			if err != nil {
				r.Fatalf("begin: %v", err)
			}
			if begun.Verdict == batch.Ended {
				continue
			}
			token = begun.Token
		}
		switch random.IntN(4) {
		case 0: // it takes its time
			if !holds {
				flying[index] = token
				order = append(order, index)
				continue
			}
		case 1: // it is to be tried again
			released, err := b.Ledger.Release(b.Ctx, id, index, token, new(batch.Result))
			if err != nil {
				r.Fatalf("release: %v", err)
			}
			if released == cancelled {
				r.Fatalf("released %v although cancelled %v", released, cancelled)
			}
			delete(flying, index)
			if released {
				order = append(order, index)
			} else {
				want[index] = batch.Cancelled
			}
			continue
		}
		o := finals[random.IntN(len(finals))]
		for range 1 + random.IntN(2) { // an answer is lost and the step repeated
			if err := b.Ledger.Finish(b.Ctx, id, index, token, queuetest.Result(index, o)); err != nil {
				r.Fatalf("finish: %v", err)
			}
		}
		want[index] = o
		delete(flying, index)
	}
	close(steps)
	readers.Wait()
	select {
	case fault := <-faults:
		r.Fatalf("a reader saw %s", fault)
	default:
	}

	all := b.AllResults(id, 1+random.IntN(n))
	require.Len(r, all, n)
	var counts batch.Counts
	counts.Total = n
	for i, got := range all {
		require.Equal(r, i, got.Index)
		require.Equal(r, fmt.Sprintf("a-%d", i), got.ID)
		require.Equal(r, want[i], got.Outcome, "action %d", i)
		if got.Outcome == batch.Succeeded {
			require.Equal(r, fmt.Sprintf("answer %d", i), string(got.Body))
		}
		*counts.Of(want[i])++
	}
	require.Equal(r, counts, b.Read(id).Counts)
}
