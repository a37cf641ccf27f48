package worker

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/redistest"
	"github.com/batchd/batchd/queue"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/seal"
)

// logged receives the warnings of a worker.
type logged chan string

func (logged) Enabled(context.Context, slog.Level) bool { return true }

func (l logged) Handle(_ context.Context, r slog.Record) error {
	if r.Level < slog.LevelWarn {
		return nil
	}
	var text strings.Builder
	text.WriteString(r.Message)
	r.Attrs(func(a slog.Attr) bool {
		text.WriteString(" " + a.Value.String())
		return true
	})
	select {
	case l <- text.String():
	default: // the test has what it waits for
	}
	return nil
}

func (l logged) WithAttrs([]slog.Attr) slog.Handler { return l }

func (l logged) WithGroup(string) slog.Handler { return l }

// An attacker who can write to Redis moves batches to another target or owner, plants an action in clear, and removes a
// head. None of it is sent, and the log names each batch.
func TestNothingOfABatchIsSentThatWasChangedInRedis(t *testing.T) {
	t.Parallel()
	b := setupOn(t, queue.Config{
		Redis: rdb.Config{URL: rdb.URL(redistest.Start(t).URL())}, Seal: seal.Config{Keys: []seal.Key{seal.NewKey("one", make([]byte, 32))}},
	}, func(_ context.Context, r *batch.Request, _ int) *batch.Response {
		if r.Target != "crm" {
			t.Errorf("a request went to %s", r.Target)
		}
		return &batch.Response{Result: batch.Result{Outcome: batch.Succeeded, Status: 200}}
	})
	log := make(logged, 1000)
	b.cfg.Logger = slog.New(log)
	other := b.cfg.Targets[0]
	other.Name = "other"
	b.cfg.Targets = append(b.cfg.Targets, other)
	redis := b.store.DB.Client
	changed := map[string]func(k keys.BatchKeys) error{
		"target": func(k keys.BatchKeys) error { return redis.HSet(t.Context(), k.Meta, "target", "other").Err() },
		"owner":  func(k keys.BatchKeys) error { return redis.HSet(t.Context(), k.Meta, "owner", "mallory").Err() },
		"head":   func(k keys.BatchKeys) error { return redis.HDel(t.Context(), k.Meta, "head").Err() },
		"planted": func(k keys.BatchKeys) error {
			planted := new(seal.Sealer).Seal(seal.Label{}, []byte("\x02\x00\x04POST\x05/evil\x00\x00\x00\x00\x00\x00\x00\x00\x00"))
			return redis.HSet(t.Context(), k.Actions, "0", planted).Err()
		},
	}
	ids := map[string]string{}
	for name, change := range changed {
		id := b.submit(1, "POST", nil)
		ids[id] = name
		require.NoError(t, change(keys.KeysOf(id)))
	}
	whole := b.submit(1, "POST", nil)
	defer b.run()()
	require.Eventually(t, func() bool { return b.attempts(whole, 0) == 1 }, time.Minute, 10*time.Millisecond)
	missing := ids
	for len(missing) > 0 {
		select {
		case line := <-log:
			for id := range missing {
				if strings.Contains(line, "could not be begun") && strings.Contains(line, "batch "+id) {
					delete(missing, id)
				}
			}
		case <-time.After(time.Minute):
			t.Fatalf("the log does not name %v", missing)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	require.Len(t, b.seen, 1, "the whole batch alone was sent")
}
