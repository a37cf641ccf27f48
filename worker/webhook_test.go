package worker

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/setting"
	"github.com/batchd/batchd/internal/webhook"
)

const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// receiver is a receiver of webhooks.
type receiver struct {
	*httptest.Server
	calls   atomic.Int32
	answers func(call int) int
	headers chan http.Header
	bodies  chan []byte
}

func receive(t *testing.T, answers func(call int) int) *receiver {
	t.Helper()
	r := &receiver{answers: answers, headers: make(chan http.Header, 16), bodies: make(chan []byte, 16)}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		r.headers <- req.Header
		r.bodies <- body
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(r.answers(int(r.calls.Add(1))))
	}))
	t.Cleanup(r.Close)
	return r
}

func (b *bundle) withWebhook(url string) string {
	b.t.Helper()
	b.cfg.Webhooks = WebhookConfig{Config: webhook.Config{Secret: secret, AllowPrivate: true}}
	return b.submit(2, "POST", func(s *batch.Spec) { s.WebhookURL, s.Metadata = url, map[string]string{"k": "v"} })
}

// log waits until a webhook has a state and returns its log.
func (b *bundle) log(id string, state batch.DeliveryState, attempts int) *batch.DeliveryLog {
	b.t.Helper()
	var l *batch.DeliveryLog
	require.Eventually(b.t, func() bool {
		var err error
		l, err = b.store.Deliveries(b.t.Context(), "me", id)
		require.NoError(b.t, err)
		return l.State == state && len(l.Attempts) == attempts
	}, 30*time.Second, 10*time.Millisecond)
	return l
}

func succeed(context.Context, *batch.Request, int) *batch.Response { return answer(200) }

func TestTheEndIsToldByASignedWebhook(t *testing.T) {
	t.Parallel()
	b := setup(t, succeed)
	r := receive(t, func(int) int { return 204 })
	id := b.withWebhook(r.URL)
	b.run()
	headers, body := <-r.headers, <-r.bodies
	own, err := webhook.Config{Secret: secret}.OwnerSecrets("me")
	require.NoError(t, err)
	wh, err := standardwebhooks.NewWebhook(own.Secret.Reveal())
	require.NoError(t, err)
	require.NoError(t, wh.Verify(body, headers))
	require.Equal(t, "msg_"+id, headers.Get("Webhook-Id"))
	var doc struct {
		noticeDocument
		Data struct {
			noticeData
			Results []json.RawMessage
		} `json:"data"`
	}
	require.NoError(t, json.Unmarshal(body, &doc))
	require.Equal(t, "batch.completed", doc.Type)
	require.Equal(t, id, doc.Data.ID)
	require.Equal(t, batch.Counts{Total: 2, Succeeded: 2}, doc.Data.Counts)
	require.Equal(t, map[string]string{"k": "v"}, doc.Data.Metadata)
	require.Len(t, doc.Data.Results, 2)
	require.NotEmpty(t, doc.Timestamp)
	l := b.log(id, batch.DeliveryDelivered, 1)
	require.Equal(t, 204, l.Attempts[0].Status)
	require.Nil(t, l.NextAt)

	require.NoError(t, b.store.Redeliver(t.Context(), "me", id))
	again := <-r.headers
	require.Equal(t, headers.Get("Webhook-Id"), again.Get("Webhook-Id"), "the id is stable")
	b.log(id, batch.DeliveryDelivered, 2)
}

func TestAWebhookThatFailsIsDeliveredLater(t *testing.T) {
	t.Parallel()
	b := setup(t, succeed)
	r := receive(t, func(call int) int {
		if call == 1 {
			return 302
		}
		return 200
	})
	id := b.withWebhook(r.URL)
	b.run()
	first := b.log(id, batch.DeliveryPending, 1)
	require.NotNil(t, first.NextAt)
	require.Contains(t, first.Attempts[0].Error, "redirect")
	l := b.log(id, batch.DeliveryDelivered, 2)
	require.GreaterOrEqual(t, l.Attempts[1].At.Sub(l.Attempts[0].At), 4*time.Second)
	require.EqualValues(t, 2, r.calls.Load(), "a redirect is not followed")
}

func TestGoneStopsAWebhook(t *testing.T) {
	t.Parallel()
	b := setup(t, succeed)
	r := receive(t, func(int) int { return 410 })
	id := b.withWebhook(r.URL)
	b.run()
	l := b.log(id, batch.DeliveryGone, 1)
	require.Nil(t, l.NextAt)
}

func TestWebhooksDoNotReachPrivateAddresses(t *testing.T) {
	t.Parallel()
	b := setup(t, succeed)
	r := receive(t, func(int) int { return 200 })
	id := b.withWebhook(r.URL + "/hush")
	b.cfg.Webhooks.AllowPrivate = false
	b.run()
	l := b.log(id, batch.DeliveryPending, 1)
	require.Equal(t, errUnreachable.Error(), l.Attempts[0].Error)
	require.Zero(t, r.calls.Load())

	d, err := newDeliverer(WebhookConfig{Config: webhook.Config{Secret: secret}})
	require.NoError(t, err)
	defer d.close()
	for _, url := range []string{"http://127.0.0.1:1/", "http://[::1]/", "http://10.0.0.1/", "http://169.254.169.254/", "http://168.63.129.16/", "http://[::ffff:127.0.0.1]/", "http://0.0.0.0/", "http://localhost:1/"} {
		got, _ := d.deliver(t.Context(), &batch.Notice{Batch: &batch.Batch{WebhookURL: url}, MessageID: "m"})
		require.Equal(t, errUnreachable.Error(), got.Error, url)
	}
}

// An owner must not find out what resolves and answers within batchd's network.
func TestALogOfDeliveriesTellsNothingOfTheNetwork(t *testing.T) {
	t.Parallel()
	open := receive(t, func(int) int { return 200 })
	_, port, err := net.SplitHostPort(strings.TrimPrefix(open.URL, "http://"))
	require.NoError(t, err)
	n, err := strconv.Atoi(port)
	require.NoError(t, err)
	guarded := WebhookConfig{Config: webhook.Config{Secret: secret, Ports: []int{80, 443, n}}}
	loose := WebhookConfig{Config: webhook.Config{Secret: secret, AllowPrivate: true}}
	ruled := WebhookConfig{Config: webhook.Config{Secret: secret, AllowPrivate: true, Hosts: []webhook.HostRule{{Owner: "me", Allow: []string{"hooks.example.com"}}}}}
	causes := map[string]bool{}
	for _, row := range []struct {
		cfg WebhookConfig
		url string
	}{
		{guarded, open.URL},                         // answers, but is private
		{guarded, "http://localhost:" + port},       // resolves to a private address
		{guarded, "http://does-not-exist.invalid/"}, // does not resolve
		{loose, "http://does-not-exist.invalid/"},
		{loose, "http://127.0.0.1:1/"}, // refuses
		{ruled, open.URL},              // is not allowed for the owner
		{guarded, "http://93.184.215.14:22/"},
	} {
		d, err := newDeliverer(row.cfg)
		require.NoError(t, err)
		got, cause := d.deliver(t.Context(), &batch.Notice{Batch: &batch.Batch{Owner: "me", WebhookURL: row.url}, MessageID: "m"})
		d.close()
		require.Equal(t, batch.Delivery{MessageID: "m", At: got.At, Error: errUnreachable.Error()}, got, row.url)
		require.NotEmpty(t, cause, row.url)
		causes[cause] = true
	}
	require.Greater(t, len(causes), 2, "the worker's own log has the reason")
	require.Zero(t, open.calls.Load())
}

func TestAWebhookIsSignedWithTheSecretOfItsBatchOrOwner(t *testing.T) {
	t.Parallel()
	const former, own = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD", "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz"
	cfg := webhook.Config{Secret: secret, PreviousSecret: former, AllowPrivate: true}
	mine, err := cfg.OwnerSecrets("me")
	require.NoError(t, err)
	yours, err := cfg.OwnerSecrets("you")
	require.NoError(t, err)
	d, err := newDeliverer(WebhookConfig{Config: cfg})
	require.NoError(t, err)
	defer d.close()
	r := receive(t, func(int) int { return 200 })
	for _, row := range []struct {
		own   string
		valid map[setting.Secret]bool
	}{
		{"", map[setting.Secret]bool{mine.Secret: true, mine.Previous: true, yours.Secret: false, secret: false, former: false}},
		{own, map[setting.Secret]bool{own: true, mine.Secret: false, mine.Previous: false, secret: false}},
	} {
		got, _ := d.deliver(t.Context(), &batch.Notice{Batch: &batch.Batch{Owner: "me", WebhookURL: r.URL, WebhookSecret: row.own}, MessageID: "m"})
		require.Equal(t, 200, got.Status, got.Error)
		headers, body := <-r.headers, <-r.bodies
		for key, valid := range row.valid {
			wh, err := standardwebhooks.NewWebhook(key.Reveal())
			require.NoError(t, err)
			require.Equal(t, valid, wh.Verify(body, headers) == nil)
		}
	}
}

func TestTheScheduleOfAWebhook(t *testing.T) {
	t.Parallel()
	want := []time.Duration{5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour, 10 * time.Hour, 10 * time.Hour}
	for failures, delay := range want {
		state, wait := after(&batch.Delivery{Status: 500, Error: "x"}, failures)
		require.Equal(t, batch.DeliveryPending, state)
		require.GreaterOrEqual(t, wait, delay)
		require.Less(t, wait, delay+delay/10)
	}
	state, _ := after(&batch.Delivery{Status: 500, Error: "x"}, len(want))
	require.Equal(t, batch.DeliveryFailed, state)
	for status, want := range map[int]batch.DeliveryState{200: batch.DeliveryDelivered, 299: batch.DeliveryDelivered, 410: batch.DeliveryGone, 199: batch.DeliveryPending, 300: batch.DeliveryPending, 404: batch.DeliveryPending, 0: batch.DeliveryPending} {
		state, _ := after(&batch.Delivery{Status: status}, 0)
		require.Equal(t, want, state, status)
	}
}

func TestWhatIsSaidOfAFailedWebhookHoldsNothingOfItsURL(t *testing.T) {
	t.Parallel()
	d, err := newDeliverer(WebhookConfig{Config: webhook.Config{Secret: secret, AllowPrivate: true}})
	require.NoError(t, err)
	defer d.close()
	for _, url := range []string{"http://127.0.0.1:1/hush", "http://hush.invalid/hush", "https://127.0.0.1:1/hush", "http://%zz/hush", "hush:hush"} {
		got, _ := d.deliver(t.Context(), &batch.Notice{Batch: &batch.Batch{WebhookURL: url}, MessageID: "m"})
		require.NotEmpty(t, got.Error, url)
		require.NotContains(t, got.Error, "hush")
	}
	_, err = newDeliverer(WebhookConfig{Config: webhook.Config{Secret: "whsec_hush!"}})
	require.Error(t, err)
	require.NotContains(t, err.Error(), "hush")
}
