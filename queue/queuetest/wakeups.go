package queuetest

import (
	"crypto/rand"
	"strings"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/queue/keys"
)

// CountWakeups returns a function that returns how many wakeup messages the store has sent to workers
// elsewhere since its last call.
func CountWakeups(b *Bundle) (count func() int) {
	b.T.Helper()
	messages := b.DB.Client.Subscribe(b.Ctx, keys.WorkChannel)
	b.T.Cleanup(func() { _ = messages.Close() })
	_, err := messages.Receive(b.Ctx) // the confirmation of the subscription
	require.NoError(b.T, err)
	return func() (n int) {
		b.T.Helper()
		mark := rand.Text()
		require.NoError(b.T, b.DB.Client.Publish(b.Ctx, keys.WorkChannel, mark).Err())
		for {
			m, err := messages.ReceiveMessage(b.Ctx)
			require.NoError(b.T, err)
			switch {
			case m.Payload == mark:
				return n
			case strings.HasPrefix(m.Payload, b.DB.Name):
				n++
			}
		}
	}
}
