package faults

import (
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/api/auth"
	"github.com/batchd/batchd/client"
	"github.com/batchd/batchd/internal/webhook"
)

// hook is one webhook that reached the receiver.
type hook struct {
	at    time.Time
	id    string // the webhook-id
	path  string
	event *client.Event
}

// receiver receives webhooks and verifies them.
type receiver struct {
	t      *testing.T
	url    string
	secret string // of the only owner

	mu     sync.Mutex
	hooks  []hook
	answer func(w http.ResponseWriter, r *http.Request, nth int) // nth counts those on one path, from 1
}

func startReceiver(t *testing.T) *receiver {
	t.Helper()
	secrets, err := webhook.Config{Secret: secret}.OwnerSecrets(auth.Anonymous)
	require.NoError(t, err)
	x := &receiver{t: t, secret: secrets.Secret.Reveal()}
	x.url = listen(t, "127.0.0.1:0", x)
	return x
}

// ServeHTTP verifies a webhook and answers 204, or as the scenario requires.
func (x *receiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	at := time.Now()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // its sender died
	}
	event, err := client.VerifyWebhook(r.Header, body, x.secret)
	if err != nil {
		x.t.Errorf("a webhook that cannot be verified came to %s: %v", r.URL.Path, err)
		return
	}
	x.mu.Lock()
	x.hooks = append(x.hooks, hook{at: at, id: event.ID, path: r.URL.Path, event: event})
	nth := 0
	for _, h := range x.hooks {
		if h.path == r.URL.Path {
			nth++
		}
	}
	answer := x.answer
	x.mu.Unlock()
	if answer == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	answer(w, r, nth)
}

// about returns the webhooks about a batch.
func (x *receiver) about(id string) []hook {
	return x.match(func(h hook) bool { return h.event.Batch.ID == id })
}

func (x *receiver) match(match func(hook) bool) []hook {
	x.mu.Lock()
	defer x.mu.Unlock()
	var found []hook
	for _, h := range x.hooks {
		if match(h) {
			found = append(found, h)
		}
	}
	return found
}
