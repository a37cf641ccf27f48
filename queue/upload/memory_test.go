package upload_test

import (
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/redistest"
	"github.com/batchd/batchd/queue"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/upload"
)

func TestNewBatchesAreRefusedWellBeforeRedisIsFull(t *testing.T) {
	t.Parallel()
	b := open(t, redistest.Start(t, "--maxmemory", "50mb").URL())
	accepted := b.Submit(2, queuetest.Spec()).ID
	refill := func(megabytes int) {
		require.NoError(t, b.DB.Client.Del(b.Ctx, "filler").Err())
		for i := range megabytes * 16 {
			require.NoError(t, b.DB.Client.HSet(b.Ctx, "filler", i, strings.Repeat("x", 1<<16)).Err())
		}
		b.Uploads.AgeMemory()
	}
	refill(36)
	_, err := b.Open(b.Ctx, "me", "")
	away := (*batch.UnavailableError)(nil)
	require.ErrorAs(t, err, &away)
	require.Equal(t, upload.MemoryRetryAfter, away.RetryAfter)
	require.Contains(t, err.Error(), "maxmemory")
	b.End(accepted, 0, batch.Succeeded)
	b.End(accepted, 1, batch.Succeeded)
	require.Equal(t, batch.StatusCompleted, b.Read(accepted).Status, "what was accepted is worked off")
	refill(1)
	b.Submit(1, queuetest.Spec())
}

// An upload can fill Redis itself: its actions may have much more than what was sent.
func TestAnUploadEndsWhenRedisIsFull(t *testing.T) {
	t.Parallel()
	b := open(t, redistest.Start(t, "--maxmemory", "50mb").URL())
	u, err := b.Open(b.Ctx, "me", "")
	require.NoError(t, err)
	defer u.Abort(b.Ctx)
	for i := range 36 * 16 {
		require.NoError(t, b.DB.Client.HSet(b.Ctx, "filler", i, strings.Repeat("x", 1<<16)).Err())
	}
	b.Uploads.AgeMemory()
	for range 1000 {
		if err = u.Add(b.Ctx, &batch.Action{Method: "GET", Path: "/"}); err != nil {
			break
		}
	}
	require.ErrorAs(t, err, new(*batch.UnavailableError))
	require.ErrorContains(t, err, "maxmemory")
}

// Twenty clients at once are told after the time of one look, not one after the other.
func TestLooksAtTheMemoryOfARedisThatIsSilentDoNotQueueUp(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0") // the kernel takes the connections, nobody answers
	require.NoError(t, err)
	defer silent.Close()
	s, err := queue.Open(queue.Config{Redis: rdb.Config{URL: rdb.URL("redis://" + silent.Addr().String() + "/0")}})
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	began := time.Now()
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			_, err := s.Open(t.Context(), "me", "")
			if away := (*batch.UnavailableError)(nil); !errors.As(err, &away) {
				t.Errorf("expected an UnavailableError, got %v", err)
			}
		})
	}
	all.Wait()
	require.Less(t, time.Since(began), 10*rdb.DefaultTimeout/2, "twenty would be the time of one after the other")
}
