package sessions_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/sessions"
)

func TestMain(m *testing.M) { queuetest.Main(m) }

func TestSessionsEnd(t *testing.T) {
	queuetest.OnStores(t, func(t *testing.T, b *queuetest.Bundle) {
		s := b.Sessions
		require.NoError(t, s.PutSession(b.Ctx, "g", "one", []byte("value"), time.Hour))
		value, err := s.Session(b.Ctx, "g", "one", time.Hour, true)
		require.NoError(t, err)
		require.Equal(t, "value", string(value))
		ttl := b.DB.Client.PTTL(b.Ctx, sessions.Key("g")).Val()
		require.Positive(t, ttl)
		require.LessOrEqual(t, ttl, time.Hour)
		for _, other := range [][2]string{{"g", "two"}, {"h", "one"}, {"g", ""}} {
			_, err = s.Session(b.Ctx, other[0], other[1], time.Hour, true)
			require.ErrorIs(t, err, batch.ErrNoSession)
		}
		require.NoError(t, s.EndSession(b.Ctx, "g", "one"))
		require.NoError(t, s.EndSession(b.Ctx, "g", "one"))
		_, err = s.Session(b.Ctx, "g", "one", time.Hour, true)
		require.ErrorIs(t, err, batch.ErrNoSession)
	}, "embedded", "server", "cluster")
}

func TestSessionsThatAreIdleEndAndUseKeepsThem(t *testing.T) {
	queuetest.OnStores(t, func(t *testing.T, b *queuetest.Bundle) {
		s := b.Sessions
		require.NoError(t, s.PutSession(b.Ctx, "g", "one", []byte("value"), time.Hour))
		used := func(ago time.Duration) {
			b.DB.Client.HSet(b.Ctx, sessions.Key("g"), "tone", time.Now().Add(-ago).UnixMilli())
		}
		used(50 * time.Minute)
		_, err := s.Session(b.Ctx, "g", "one", time.Hour, false)
		require.NoError(t, err)
		_, err = s.Session(b.Ctx, "g", "one", 30*time.Minute+20*time.Minute+time.Minute, true)
		require.NoError(t, err)
		_, err = s.Session(b.Ctx, "g", "one", 10*time.Minute, false)
		require.NoError(t, err, "it was used")
		used(50 * time.Minute)
		_, err = s.Session(b.Ctx, "g", "one", time.Hour, false)
		require.NoError(t, err)
		_, err = s.Session(b.Ctx, "g", "one", 10*time.Minute, true)
		require.ErrorIs(t, err, batch.ErrNoSession, "a look is no use")
		require.Zero(t, b.DB.Client.HLen(b.Ctx, sessions.Key("g")).Val())
	}, "embedded", "server")
}

func TestAnOwnerHasABoundedNumberOfSessions(t *testing.T) {
	queuetest.OnStores(t, func(t *testing.T, b *queuetest.Bundle) {
		for i := range sessions.Most + 10 {
			require.NoError(t, b.Sessions.PutSession(b.Ctx, "g", fmt.Sprint(i), []byte("value"), time.Hour))
			b.DB.Client.HSet(b.Ctx, sessions.Key("g"), fmt.Sprint("t", i), time.Now().Add(time.Duration(i)*time.Millisecond).UnixMilli())
		}
		require.EqualValues(t, 2*sessions.Most, b.DB.Client.HLen(b.Ctx, sessions.Key("g")).Val())
		_, err := b.Sessions.Session(b.Ctx, "g", "9", time.Hour, false)
		require.ErrorIs(t, err, batch.ErrNoSession)
		_, err = b.Sessions.Session(b.Ctx, "g", "10", time.Hour, false)
		require.NoError(t, err)
	}, "embedded")
}

// A writer to Redis without the seal keys makes no session, and moves none to another id or owner.
func TestASessionThatWasPlantedIsNone(t *testing.T) {
	queuetest.OnStores(t, func(t *testing.T, b *queuetest.Bundle) {
		require.True(t, b.Sealed())
		require.NoError(t, b.Sessions.PutSession(b.Ctx, "g", "one", []byte("value"), time.Hour))
		stored := b.DB.Client.HGet(b.Ctx, sessions.Key("g"), "vone").Val()
		require.NotContains(t, stored, "value")
		now := time.Now().UnixMilli()
		b.DB.Client.HSet(b.Ctx, sessions.Key("g"), "vtwo", stored, "ttwo", now, "vthree", "\x00value", "tthree", now, "vfour", "\x07", "tfour", now)
		b.DB.Client.HSet(b.Ctx, sessions.Key("h"), "vone", stored, "tone", now)
		for _, at := range [][2]string{{"g", "two"}, {"g", "three"}, {"g", "four"}, {"h", "one"}} {
			_, err := b.Sessions.Session(b.Ctx, at[0], at[1], time.Hour, false)
			require.ErrorIs(t, err, batch.ErrNoSession, at)
		}
	}, "server")
}
