package api

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

// slowStore answers a Get after a while, unless its context ends first.
type slowStore struct {
	batch.Store
	takes time.Duration
}

func (s *slowStore) Get(ctx context.Context, _, _ string, _ int) (*batch.Batch, error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(s.takes):
		return &batch.Batch{}, nil
	}
}

func TestARequestBearsWithASlowStoreOnlyForSoLongInAll(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		slow := &slowStore{takes: storePatience * 2 / 3}
		s := patientStore{slow}
		ctx := context.WithValue(t.Context(), patienceKey{}, &patience{left: storePatience})
		began := time.Now()
		_, err := s.Get(ctx, "", "", 0)
		require.NoError(t, err)
		_, err = s.Get(ctx, "", "", 0)
		unavailable := (*batch.UnavailableError)(nil)
		require.ErrorAs(t, err, &unavailable)
		require.Positive(t, unavailable.RetryAfter)
		require.Equal(t, storePatience, time.Since(began))
		_, err = s.Get(ctx, "", "", 0)
		require.ErrorAs(t, err, &unavailable)
		require.Equal(t, storePatience, time.Since(began), "there is none left")

		refresh(ctx)
		_, err = s.Get(ctx, "", "", 0)
		require.NoError(t, err)

		gone, cancel := context.WithCancel(context.WithValue(t.Context(), patienceKey{}, &patience{left: storePatience}))
		cancel()
		_, err = s.Get(gone, "", "", 0)
		require.ErrorIs(t, err, context.Canceled, "a client that hung up is not the store's fault")
	})
}
