package auth_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/api/auth"
	"github.com/batchd/batchd/api/dialect"
	"github.com/batchd/batchd/internal/apikey"
	"github.com/batchd/batchd/internal/batch"
)

// source is a source of keys that counts how often it is read.
type source struct {
	mu      sync.Mutex
	keys    []batch.Key
	version int
	down    error
	reads   int
}

func (s *source) Keys(_ context.Context, version string) ([]batch.Key, string, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads++
	now := fmt.Sprint(s.version)
	if s.down != nil {
		return nil, "", false, s.down
	}
	return s.keys, now, now != version, nil
}

func (s *source) set(keys ...batch.Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys, s.version = keys, s.version+1
}

func (s *source) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = err
}

// aliceKey returns the key with that text.
func aliceKey(text string) batch.Key {
	return batch.Key{Name: "alice", Owner: "alice", Scopes: []string{"read"}, Secrets: []batch.KeySecret{{SHA256: apikey.HexHash(text)}}}
}

func request(headers ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
	for pair := range slices.Chunk(headers, 2) {
		r.Header.Add(pair[0], pair[1])
	}
	return r
}

func TestAKeyComesInOneOfTwoHeadersAndIsTakenOut(t *testing.T) {
	t.Parallel()
	key, other := apikey.New(), apikey.New()
	keys := auth.NewKeys(&source{keys: []batch.Key{aliceKey(key)}}, nil, slog.New(slog.DiscardHandler))
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte(key+":"))
	for _, row := range []struct {
		headers []string
		want    string // name, "" for none, or a part of the error
		remains string // the Authorization
	}{
		{nil, "", ""},
		{[]string{"Authorization", "Bearer abc"}, "", "Bearer abc"},
		{[]string{"Authorization", "Bearer " + key}, "alice", ""},
		{[]string{"Authorization", "bearer  " + key + " "}, "alice", ""},
		{[]string{"X-Batchd-Key", key}, "alice", ""},
		{[]string{"X-Batchd-Key", key, "Authorization", "Basic Zm9v"}, "alice", "Basic Zm9v"},
		{[]string{"X-Batchd-Key", key, "X-Batchd-Key", key}, "several keys", ""},
		{[]string{"X-Batchd-Key", key, "Authorization", "Bearer " + key}, "several keys", ""},
		{[]string{"Authorization", "Bearer " + key, "Authorization", "Basic Zm9v"}, "several keys", ""},
		{[]string{"Authorization", key}, "without the scheme Bearer", ""},
		{[]string{"Authorization", basic}, "without the scheme Bearer", ""},
		{[]string{"Authorization", "Bearer " + other}, "unknown, revoked or expired", ""},
		{[]string{"Authorization", "Bearer " + key[:50]}, "typing error", ""},
		{[]string{"X-Batchd-Key", "abc"}, "typing error", ""},
		{[]string{"X-Batchd-Key", ""}, "", ""},
	} {
		r := request(row.headers...)
		p, err := keys.Authenticate(t.Context(), r)
		require.Equal(t, row.remains, r.Header.Get("Authorization"), "%q", row.headers)
		require.NotContains(t, r.Header, "X-Batchd-Key")
		switch row.want {
		case "":
			require.NoError(t, err)
			require.Nil(t, p)
		case "alice":
			require.NoError(t, err)
			require.Equal(t, "alice", p.Name)
			require.Equal(t, "key:alice", p.Owner)
			require.Equal(t, auth.Scopes{auth.Read}, p.Scopes)
			require.Equal(t, r.Header.Get("Authorization") != "" || len(row.headers) == 2 && row.headers[0] == "X-Batchd-Key", p.Forward)
		default:
			require.ErrorAs(t, err, new(*dialect.UnauthorizedError))
			require.ErrorContains(t, err, row.want)
			require.NotContains(t, err.Error(), key[:20])
		}
		guarded := request(row.headers...)
		_, err = auth.Guard{}.Authenticate(t.Context(), guarded)
		require.NoError(t, err)
		require.Equal(t, r.Header, guarded.Header, "without the mode keys, a key is taken out, too")
	}
}

func TestARevocationHoldsWithinFiveSeconds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		text := apikey.New()
		src := &source{keys: []batch.Key{aliceKey(text)}}
		keys := auth.NewKeys(src, nil, slog.New(slog.DiscardHandler))
		ask := func() error {
			_, err := keys.Authenticate(t.Context(), request("X-Batchd-Key", text))
			return err
		}
		require.NoError(t, ask())
		for range 30 { // whatever the age of what is known
			p, err := keys.Authenticate(t.Context(), request("X-Batchd-Key", text))
			require.NoError(t, err)
			revoked := aliceKey(text)
			revoked.Revoked = time.Now()
			src.set(revoked)
			time.Sleep(5*time.Second - time.Millisecond)
			require.ErrorContains(t, ask(), "revoked")
			require.ErrorContains(t, p.StillValid(t.Context()), "revoked", "also for a request under way")
			src.set(aliceKey(text))
			time.Sleep(4300 * time.Millisecond)
			require.NoError(t, ask())
			time.Sleep(170 * time.Millisecond)
		}
	})
}

func TestRequestsCostNoReadOfTheirOwn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		text := apikey.New()
		src := &source{keys: []batch.Key{aliceKey(text)}}
		keys := auth.NewKeys(src, nil, slog.New(slog.DiscardHandler))
		for range 10_000 { // in 10 s
			_, err := keys.Authenticate(t.Context(), request("X-Batchd-Key", text))
			require.NoError(t, err)
			_, err = keys.Authenticate(t.Context(), request("X-Batchd-Key", apikey.New()))
			require.Error(t, err, "an invented key")
			time.Sleep(time.Millisecond)
		}
		synctest.Wait()
		require.LessOrEqual(t, src.reads, 8)
	})
}

func TestWithoutTheStoreWhatIsKnownDecidesForFiveSecondsAtMost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		text := apikey.New()
		src := &source{keys: []batch.Key{aliceKey(text)}}
		keys := auth.NewKeys(src, nil, slog.New(slog.DiscardHandler))
		ask := func() error {
			_, err := keys.Authenticate(t.Context(), request("X-Batchd-Key", text))
			return err
		}
		require.NoError(t, ask())
		src.fail(errors.New("gone"))
		time.Sleep(3 * time.Second)
		require.NoError(t, ask())
		time.Sleep(2 * time.Second)
		require.ErrorAs(t, ask(), new(*batch.UnavailableError))
		src.fail(nil)
		require.NoError(t, ask(), "it is back")
	})
}

func TestSecretsAndKeysExpire(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		old, now := apikey.New(), apikey.New()
		key := aliceKey(now)
		key.Expires = time.Now().Add(time.Hour)
		key.Secrets = append(key.Secrets, batch.KeySecret{SHA256: apikey.HexHash(old), Until: time.Now().Add(time.Minute)}, batch.KeySecret{SHA256: "bad"})
		keys := auth.NewKeys(&source{keys: []batch.Key{key}}, nil, slog.New(slog.DiscardHandler))
		ask := func(text string) error {
			_, err := keys.Authenticate(t.Context(), request("X-Batchd-Key", text))
			return err
		}
		require.NoError(t, ask(old))
		require.NoError(t, ask(now))
		time.Sleep(time.Minute)
		require.ErrorContains(t, ask(old), "expired")
		require.NoError(t, ask(now))
		p, err := keys.Authenticate(t.Context(), request("X-Batchd-Key", now))
		require.NoError(t, err)
		time.Sleep(time.Hour)
		require.ErrorContains(t, ask(now), "expired")
		require.ErrorContains(t, p.StillValid(t.Context()), "expired")
	})
}
