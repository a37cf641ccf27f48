package client_test

import (
	"encoding/base64"
	"net/http"
	"strconv"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/client"
)

var secret = "whsec_" + base64.StdEncoding.EncodeToString([]byte("0123456789abcdef0123456789abcdef"))

const eventBody = `{"type":"batch.completed","timestamp":"2026-01-02T03:04:05Z","data":{"id":"b1","round":2,"status":"completed","counts":{"total":1,"succeeded":1},"results":[{"id":"0","index":0,"outcome":"succeeded","attempts":1,"status":200}]}}`

func sign(t *testing.T, secret, body string, at time.Time) http.Header {
	t.Helper()
	wh, err := standardwebhooks.NewWebhook(secret)
	require.NoError(t, err)
	signature, err := wh.Sign("msg_1", at, []byte(body))
	require.NoError(t, err)
	h := http.Header{}
	h.Set("Webhook-Id", "msg_1")
	h.Set("Webhook-Timestamp", strconv.FormatInt(at.Unix(), 10))
	h.Set("Webhook-Signature", signature)
	return h
}

func TestVerifyWebhookReturnsTheEvent(t *testing.T) {
	t.Parallel()
	other := "whsec_" + base64.StdEncoding.EncodeToString(make([]byte, 32))
	event, err := client.VerifyWebhook(sign(t, secret, eventBody, time.Now()), []byte(eventBody), other, secret)
	require.NoError(t, err)
	require.Equal(t, "msg_1", event.ID)
	require.Equal(t, "batch.completed", event.Type)
	require.Equal(t, 2, event.Round)
	require.Equal(t, 5, event.Timestamp.Second())
	require.Equal(t, "b1", event.Batch.ID)
	require.Equal(t, 200, event.Batch.Results[0].Status)
	require.True(t, event.Batch.AllSucceeded())
}

func TestVerifyWebhookRefusesWhatIsNotTheServers(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for name, tc := range map[string]struct {
		header http.Header
		body   string
		secret []string
	}{
		"another body":     {sign(t, secret, eventBody, now), eventBody + " ", []string{secret}},
		"another secret":   {sign(t, secret, eventBody, now), eventBody, []string{"whsec_" + base64.StdEncoding.EncodeToString(make([]byte, 32))}},
		"too old":          {sign(t, secret, eventBody, now.Add(-6*time.Minute)), eventBody, []string{secret}},
		"from the future":  {sign(t, secret, eventBody, now.Add(6*time.Minute)), eventBody, []string{secret}},
		"no headers":       {http.Header{}, eventBody, []string{secret}},
		"no secret":        {sign(t, secret, eventBody, now), eventBody, nil},
		"an empty secret":  {sign(t, "whsec_", eventBody, now), eventBody, []string{"whsec_"}},
		"not base64":       {sign(t, secret, eventBody, now), eventBody, []string{"whsec_?"}},
		"signed, not JSON": {sign(t, secret, "{", now), "{", []string{secret}},
	} {
		_, err := client.VerifyWebhook(tc.header, []byte(tc.body), tc.secret...)
		require.Error(t, err, name)
	}
}
