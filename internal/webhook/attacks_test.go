package webhook_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/attacks"
	"github.com/batchd/batchd/internal/webhook"
)

func TestAttacksByTheURLOfAWebhook(t *testing.T) {
	t.Parallel()
	public := webhook.Config{}.WithDefaults()
	for _, file := range []string{"testdata/attacks/addresses.txt", "testdata/attacks/urls.txt"} {
		for _, c := range attacks.Read(t, file) {
			err := public.CheckURL(c.Input, "me", nil)
			require.Equal(t, c.Want == "refuse", err != nil, "%q: %s: %v", c.Input, c.Why, err)
		}
	}
}
