package webhook_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/setting"
	"github.com/batchd/batchd/internal/webhook"
)

// FuzzSecret checks that each secret that is accepted signs and derives, and that no error repeats it.
func FuzzSecret(f *testing.F) {
	for _, seed := range []string{"whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=", "whsec_", "MDEy", "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE", "whsec_MDEyMzQ1Njc4OTAx\nMjM0NTY3ODkwMTIzNDU2Nzg5MDE=", "whsec_!"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if err := webhook.CheckSecret(text); err != nil {
			if len(text) > 30 {
				require.NotContains(t, err.Error(), text[10:])
			}
			return
		}
		if text == "" {
			return
		}
		secrets, err := webhook.Config{Secret: setting.Secret(text)}.OwnerSecrets("me")
		require.NoError(t, err)
		require.NoError(t, webhook.CheckSecret(secrets.Secret.Reveal()))
		require.NotEqual(t, text, secrets.Secret.Reveal())
		for _, secret := range []setting.Secret{secrets.Secret, setting.Secret(text)} {
			signature, err := webhook.Sign("id", time.Unix(1, 0), []byte("{}"), secret)
			require.NoError(t, err)
			require.NotEmpty(t, signature)
		}
	})
}
