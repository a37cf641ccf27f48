package queue

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/redistest"
)

func TestASubscriptionThatWasRefusedIsMadeOnceMore(t *testing.T) {
	t.Parallel()
	b, p := behindProxy(t)
	b.notices.every = 20 * time.Millisecond
	stop := p.Answer(redistest.Rule{
		Reply: "NOPERM no permissions to access a channel", Way: redistest.Refused, Times: 3,
		Match: func(words []string) bool { return words[0] == "SUBSCRIBE" },
	})
	heard := make(chan string, 1000)
	defer b.notices.hear("news", func(message string) { heard <- message })()
	require.Eventually(t, func() bool {
		require.NoError(t, b.db.Client.Publish(b.ctx, "news", "hello").Err())
		return len(heard) > 0
	}, 20*time.Second, 5*time.Millisecond)
	require.Equal(t, 3, stop())
	require.Equal(t, "hello", <-heard)
}
