package webhook_test

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/setting"
	"github.com/batchd/batchd/internal/webhook"
)

const (
	secret = setting.Secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	former = setting.Secret("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")
)

func TestEachOwnerHasASecretOfItsOwn(t *testing.T) {
	t.Parallel()
	c := webhook.Config{Secret: secret, PreviousSecret: former}
	seen := map[setting.Secret]bool{secret: true, former: true}
	for _, owner := range []string{"", "me", "you", "me ", "Me", strings.Repeat("o", 1000)} {
		own, err := c.OwnerSecrets(owner)
		require.NoError(t, err)
		for _, s := range []setting.Secret{own.Secret, own.Previous} {
			require.NoError(t, webhook.CheckSecret(s.Reveal()))
			require.False(t, seen[s], "%q", owner)
			seen[s] = true
		}
		again, err := webhook.Config{Secret: former}.OwnerSecrets(owner)
		require.NoError(t, err)
		require.Equal(t, webhook.OwnerSecrets{Secret: own.Previous}, again, "what was current before is the previous secret")
	}
	// Another version of batchd derives the same.
	own, err := c.OwnerSecrets("me")
	require.NoError(t, err)
	require.Equal(t, "whsec_OBwhv8CaFkBp5lEBdcM/WvDPg0479rCB8zwa6K8IC9M=", own.Secret.Reveal())
	none, err := webhook.Config{}.OwnerSecrets("me")
	require.NoError(t, err)
	require.Zero(t, none)
	_, err = webhook.Config{Secret: "whsec_hush!"}.OwnerSecrets("me")
	require.Error(t, err)
	require.NotContains(t, err.Error(), "hush")
}

func TestEitherSecretVerifiesDuringARotation(t *testing.T) {
	t.Parallel()
	now := time.Now()
	signatures, err := webhook.Sign("msg_1", now, []byte("{}"), secret, "", former)
	require.NoError(t, err)
	require.Len(t, strings.Split(signatures, " "), 2)
	header := http.Header{}
	header.Set("Webhook-Id", "msg_1")
	header.Set("Webhook-Timestamp", strconv.FormatInt(now.Unix(), 10))
	header.Set("Webhook-Signature", signatures)
	for key, valid := range map[setting.Secret]bool{secret: true, former: true, "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz": false} {
		wh, err := standardwebhooks.NewWebhook(key.Reveal())
		require.NoError(t, err)
		require.Equal(t, valid, wh.Verify([]byte("{}"), header) == nil)
	}
	_, err = webhook.Sign("msg_1", now, nil, "whsec_hush!")
	require.Error(t, err)
	require.NotContains(t, err.Error(), "hush")
}
