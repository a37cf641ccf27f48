package apikeys_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/apikeys"
	"github.com/batchd/batchd/queue/queuetest"
)

func TestKeysAreKeptWithTheirVersion(t *testing.T) {
	queuetest.OnStores(t, func(t *testing.T, b *queuetest.Bundle) {
		found, version, changed, err := b.Keys.Keys(b.Ctx, "")
		require.NoError(t, err)
		require.True(t, changed)
		require.Empty(t, found)
		alice := batch.Key{
			Name: "alice", Owner: "a", Scopes: []string{"read"}, Targets: []string{"crm"}, Secrets: []batch.KeySecret{{SHA256: "00"}},
			Expires: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC), Limits: batch.OwnerLimits{Rate: batch.Rate{N: 5, Per: time.Second}, Concurrent: 7},
		}
		require.NoError(t, b.Keys.ChangeKey(b.Ctx, "alice", func(key *batch.Key) (*batch.Key, error) {
			require.Nil(t, key)
			return &alice, nil
		}))
		found, now, changed, err := b.Keys.Keys(b.Ctx, version)
		require.NoError(t, err)
		require.True(t, changed)
		require.NotEqual(t, version, now)
		require.Equal(t, []batch.Key{alice}, found)
		found, again, changed, err := b.Keys.Keys(b.Ctx, now)
		require.NoError(t, err)
		require.False(t, changed)
		require.Empty(t, found)
		require.Equal(t, now, again)

		refused := errors.New("no")
		require.ErrorIs(t, b.Keys.ChangeKey(b.Ctx, "alice", func(key *batch.Key) (*batch.Key, error) { return nil, refused }), refused)
		_, again, _, err = b.Keys.Keys(b.Ctx, now)
		require.NoError(t, err)
		require.Equal(t, now, again)
	}, "embedded", "server", "cluster")
}

func TestChangesAtTheSameTimeLoseNothing(t *testing.T) {
	queuetest.OnStores(t, func(t *testing.T, b *queuetest.Bundle) {
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				if err := b.Keys.ChangeKey(b.Ctx, "k", func(key *batch.Key) (*batch.Key, error) {
					if key == nil {
						key = &batch.Key{Name: "k"}
					}
					key.Secrets = append(key.Secrets, batch.KeySecret{SHA256: "x"})
					return key, nil
				}); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		found, _, _, err := b.Keys.Keys(b.Ctx, "")
		require.NoError(t, err)
		require.Len(t, found[0].Secrets, 8)
	}, "server")
}

// A writer to Redis without the seal keys makes no key, and gives no key another's rights.
func TestARecordThatWasPlantedIsNoKey(t *testing.T) {
	queuetest.OnStores(t, func(t *testing.T, b *queuetest.Bundle) {
		require.True(t, b.Sealed(), "the test is about sealed records")
		for _, name := range []string{"low", "high"} {
			require.NoError(t, b.Keys.ChangeKey(b.Ctx, name, func(*batch.Key) (*batch.Key, error) {
				return &batch.Key{Name: name, Secrets: []batch.KeySecret{{SHA256: name}}}, nil
			}))
		}
		high := b.DB.Client.HGet(b.Ctx, apikeys.Key, "k:high").Val()
		require.NotContains(t, high, "sha256")
		b.DB.Client.HSet(b.Ctx, apikeys.Key, "k:low", high, "k:new", "\x00"+`{"name":"new","scopes":["admin"]}`, "k:", "", "version", "planted")
		found, _, _, err := b.Keys.Keys(b.Ctx, "")
		require.NoError(t, err)
		require.Len(t, found, 1)
		require.Equal(t, "high", found[0].Name)

		// They are listed, and can be revoked.
		found, faults, err := b.Keys.ListKeys(b.Ctx)
		require.NoError(t, err)
		require.Len(t, found, 1)
		var names []string
		for _, fault := range faults {
			names = append(names, fault.Name)
			require.Error(t, fault.Err)
		}
		require.ElementsMatch(t, []string{"low", "new", ""}, names)
		err = b.Keys.ChangeKey(b.Ctx, "low", func(key *batch.Key) (*batch.Key, error) { return key, nil })
		require.ErrorContains(t, err, "the record of key low cannot be read")
		at := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
		for _, name := range names {
			unreadable, err := b.Keys.RevokeKey(b.Ctx, name, at)
			require.NoError(t, err)
			require.Error(t, unreadable)
			unreadable, err = b.Keys.RevokeKey(b.Ctx, name, at.Add(time.Hour))
			require.NoError(t, err)
			require.NoError(t, unreadable, "it can be read now")
		}
		_, err = b.Keys.RevokeKey(b.Ctx, "unknown", at)
		require.ErrorIs(t, err, batch.ErrNoKey)
		found, faults, err = b.Keys.ListKeys(b.Ctx)
		require.NoError(t, err)
		require.Empty(t, faults)
		require.Len(t, found, 4)
		for _, key := range found {
			require.Equal(t, key.Name != "high", key.Revoked.Equal(at), key.Name)
			require.Equal(t, key.Name == "high", len(key.Secrets) > 0, key.Name)
		}
	}, "embedded", "server")
}

func TestAnEmptyListIsKeptApartFromNone(t *testing.T) {
	queuetest.OnStores(t, func(t *testing.T, b *queuetest.Bundle) {
		for name, list := range map[string][]string{"all": nil, "none": {}} {
			require.NoError(t, b.Keys.ChangeKey(b.Ctx, name, func(*batch.Key) (*batch.Key, error) {
				return &batch.Key{Name: name, Targets: list, WebhookHosts: list}, nil
			}))
		}
		found, _, err := b.Keys.ListKeys(b.Ctx)
		require.NoError(t, err)
		require.Len(t, found, 2)
		for _, key := range found {
			require.Equal(t, key.Name == "all", key.Targets == nil)
			require.Equal(t, key.Name == "all", key.WebhookHosts == nil)
		}
	}, "embedded")
}
