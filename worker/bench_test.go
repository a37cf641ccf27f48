package worker

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/consumer"
)

// idleWorld begins, answers and ends every action at once.
type idleWorld struct {
	batch.Ledger
	batch.Dispatcher
	batch.Sweeper
	batch.Registry
	batch.Gate
	batch.Prober
	begun    batch.Begun
	response batch.Response
}

func (w *idleWorld) Begin(context.Context, string, int, string) (*batch.Begun, error) {
	return &w.begun, nil
}

func (w *idleWorld) Do(context.Context, *batch.Request) *batch.Response { return &w.response }

func (w *idleWorld) Finish(context.Context, string, int, batch.Token, *batch.Result) error {
	return nil
}

// BenchmarkAction measures the worker's own part of an action: everything except asynq,
// the ledger and the exchange.
func BenchmarkAction(b *testing.B) {
	now := time.Now()
	world := &idleWorld{
		begun: batch.Begun{
			Verdict: batch.Run, Target: "crm", Token: "t", Attempt: 1, StartedAt: now, FirstAt: now, ExpiresAt: now.Add(time.Hour),
			Action: batch.Action{Method: "POST", Path: "/items", Body: []byte(strings.Repeat("x", 200))},
		},
		response: batch.Response{Result: batch.Result{Outcome: batch.Succeeded, Status: 200}},
	}
	w, err := New(Config{
		Ledger: world, Dispatcher: world, Sweeper: world, Registry: world, Gate: world, Prober: world,
		Targets: []batch.Target{{Name: "crm", BaseURL: "http://127.0.0.1"}},
	})
	require.NoError(b, err)
	b.ReportAllocs()
	for b.Loop() {
		if err := w.runAction("018f0000-0000-7000-8000-000000000000", 17, &consumer.Slot{}); err != nil {
			b.Fatal(err)
		}
	}
}
