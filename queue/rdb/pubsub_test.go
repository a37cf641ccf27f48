package rdb

import (
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/redistest"
)

func TestASubscriptionThatWasRefusedIsMadeOnceMore(t *testing.T) {
	t.Parallel()
	proxy := redistest.StartProxy(t, redistest.Start(t).Addr)
	db, err := Open(Config{URL: URL(proxy.URL())}, Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	p := NewPubSub(db, slog.New(slog.DiscardHandler))
	defer p.Close()
	p.every = 20 * time.Millisecond
	stop := proxy.Answer(redistest.Rule{
		Reply: "NOPERM no permissions to access a channel", Way: redistest.Refused, Times: 3,
		Match: func(words []string) bool { return words[0] == "SUBSCRIBE" },
	})
	heard := make(chan string, 1000)
	defer p.Listen("news", func(message string) { heard <- message })()
	require.Eventually(t, func() bool {
		require.NoError(t, db.Client.Publish(t.Context(), "news", "hello").Err())
		return len(heard) > 0
	}, 20*time.Second, 5*time.Millisecond)
	require.Equal(t, 3, stop())
	require.Equal(t, "hello", <-heard)
}
