package faults

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/client"
	"github.com/batchd/batchd/internal/redistest"
)

// Receivers that are down, slow, broken, redirecting or gone, each with the webhook of a batch
// of one action.
func TestWebhooksReachAReceiverInTheEnd(t *testing.T) {
	scenario(t)
	w := newWorld(t)
	w.startAPI()
	w.startWorker("w0")
	w.receiver.answer = func(rw http.ResponseWriter, r *http.Request, nth int) {
		switch {
		case r.URL.Path == "/gone":
			rw.WriteHeader(http.StatusGone)
		case nth > 1:
			rw.WriteHeader(http.StatusNoContent)
		case r.URL.Path == "/slow":
			<-r.Context().Done() // longer than the delivery waits
		case r.URL.Path == "/broken":
			rw.WriteHeader(http.StatusInternalServerError)
		case r.URL.Path == "/moved":
			rw.Header().Set("Location", w.receiver.url+"/elsewhere")
			rw.WriteHeader(http.StatusFound)
		}
	}
	down := redistest.FreeAddr(t)
	urls := map[string]string{"/down": "http://" + down + "/down"}
	for _, path := range []string{"/slow", "/broken", "/moved", "/gone"} {
		urls[path] = w.receiver.url + path
	}
	batches := make(map[string]*planned, len(urls))
	start := time.Now()
	for path, url := range urls {
		batches[path] = plan(path[1:], 1, http.MethodGet)
		w.submit(batches[path], client.Options{WebhookURL: url})
	}
	eventually(t, 30*time.Second, func() bool { return len(w.deliveries(batches["/down"]).Attempts) == 1 }, "no attempt at a receiver that is down")
	listen(t, down, w.receiver)

	retried := map[string]time.Duration{}
	for _, path := range []string{"/down", "/broken", "/moved", "/slow"} {
		p := batches[path]
		eventually(t, 40*time.Second, func() bool { return w.deliveries(p).State == client.DeliveryDelivered }, "%s is not told: %+v", path, w.deliveries(p))
		log := w.deliveries(p)
		require.Len(t, log.Attempts, 2, path)
		hooks := w.receiver.about(p.id)
		require.NotEmpty(t, hooks)
		for _, h := range hooks {
			require.Equal(t, log.MessageID, h.id, path)
		}
		first := log.Attempts[0]
		retried[path] = log.Attempts[1].At.Sub(first.At) - time.Duration(first.DurationMS)*time.Millisecond
		require.GreaterOrEqual(t, retried[path], 5*time.Second, path)
		require.Less(t, retried[path], 15*time.Second, path) // the delay after the next one is in minutes
	}
	require.Empty(t, w.receiver.match(func(h hook) bool { return h.path == "/elsewhere" }), "a redirect was followed")
	time.Sleep(time.Until(start.Add(8 * time.Second))) // a second attempt would have come by then
	require.Len(t, w.receiver.about(batches["/gone"].id), 1, "a receiver that is gone was told again")
	require.Equal(t, client.DeliveryGone, w.deliveries(batches["/gone"]).State)
	figure(t, "webhooks: from a failed attempt to the next: down %.1fs, slow %.1fs, 500 %.1fs, 302 %.1fs; 410: none",
		retried["/down"].Seconds(), retried["/slow"].Seconds(), retried["/broken"].Seconds(), retried["/moved"].Seconds())
}

func (w *world) deliveries(p *planned) *client.DeliveryLog {
	w.t.Helper()
	log, err := w.client.Deliveries(w.t.Context(), p.id)
	require.NoError(w.t, err)
	return log
}

// The worker that delivers a webhook is killed while the receiver holds the request.
// Another worker delivers it again, once the queue's own lease of a minute or two has
// expired.
func TestAWebhookOutlivesTheWorkerThatDeliversIt(t *testing.T) {
	if !long {
		t.Skip("takes two minutes: run it with -tags faults")
	}
	w := newWorld(t)
	w.startAPI()
	worker := w.startWorker("w0")
	held := make(chan struct{}, 1)
	w.receiver.answer = func(rw http.ResponseWriter, r *http.Request, nth int) {
		if nth == 1 {
			held <- struct{}{}
			<-r.Context().Done()
			return
		}
		rw.WriteHeader(http.StatusNoContent)
	}
	p := plan("m", 1, http.MethodGet)
	w.submit(p, client.Options{WebhookURL: w.receiver.url + "/hook"})
	<-held
	killed := time.Now()
	worker.kill()
	w.startWorker("w1")
	eventually(t, 150*time.Second, func() bool { return len(w.receiver.about(p.id)) > 1 }, "not delivered again")
	hooks := w.receiver.about(p.id)
	require.Equal(t, hooks[0].id, hooks[1].id)
	eventually(t, 30*time.Second, func() bool { return w.deliveries(p).State == client.DeliveryDelivered }, "not noted as delivered")
	figure(t, "webhooks: deliverer killed, delivered again after %.1fs", hooks[1].at.Sub(killed).Seconds())
}
