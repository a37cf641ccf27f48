package worker

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/hibiken/asynq"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/crash"
	"github.com/batchd/batchd/internal/setting"
	"github.com/batchd/batchd/internal/webhook"
	"github.com/batchd/batchd/queue/tasks"
)

// schedule has the delay after each failed attempt, as Standard Webhooks recommends. After the last
// attempt the webhook has failed.
var schedule = [...]time.Duration{
	5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour, 10 * time.Hour, 10 * time.Hour,
}

// timeFormat is the API's time format: RFC 3339 with milliseconds.
const timeFormat = "2006-01-02T15:04:05.000Z"

// webhookTimeout bounds one attempt.
const webhookTimeout = 15 * time.Second

// WebhookConfig configures the delivery of webhooks. Fields without a yaml tag are not
// settings.
type WebhookConfig struct {
	webhook.Config `yaml:",inline"`
	// UserAgent defaults to "batchd".
	UserAgent string
}

// deliverer posts signed webhooks.
type deliverer struct {
	cfg       webhook.Config
	client    *http.Client
	transport *http.Transport
	agent     string
}

// dialTimeout bounds a connection and its TLS handshake, each.
const dialTimeout = webhookTimeout / 3

// errUnreachable is the error of every delivery that made no connection, whatever the
// reason: an owner must not find out which names resolve, and which addresses answer, in
// the network of batchd.
const errUnreachable deliveryError = "the receiver cannot be reached, or must not be"

func newDeliverer(cfg WebhookConfig) (*deliverer, error) {
	d := &deliverer{cfg: cfg.Config, agent: cfg.UserAgent}
	if d.agent == "" {
		d.agent = "batchd"
	}
	if _, err := cfg.OwnerSecrets(""); err != nil {
		return nil, err
	}
	dialer := &net.Dialer{Timeout: dialTimeout, Control: cfg.Control}
	d.transport = &http.Transport{
		DialContext: dialer.DialContext, Proxy: nil, ForceAttemptHTTP2: true, DisableCompression: true,
		TLSHandshakeTimeout: dialTimeout, MaxResponseHeaderBytes: 64 << 10,
		// A receiver that answers late or twice must not answer the next delivery, which can be another owner's.
		DisableKeepAlives: true,
	}
	d.client = &http.Client{
		Transport: d.transport, Timeout: webhookTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return d, nil
}

func (d *deliverer) close() { d.transport.CloseIdleConnections() }

// runWebhook handles the task of one batch's webhook.
func (w *Worker) runWebhook(ctx context.Context, t *asynq.Task) error {
	id, number, err := tasks.DecodeTask(t.Payload())
	if err != nil {
		w.log.ErrorContext(w.held, "dropped a task of another program", "error", err)
		return nil
	}
	failures, _ := asynq.GetRetryCount(ctx)
	notice, err := w.readNotice(id, number)
	switch {
	case errors.Is(err, batch.ErrNotFound):
		return nil
	case errors.Is(err, batch.ErrStale):
		w.log.InfoContext(w.held, "webhook withdrawn before it was sent", "batch", id)
		return nil
	case err != nil:
		w.log.WarnContext(w.held, "webhook could not be read", "batch", id, "error", err)
		return &laterError{after: unreadable(err), reason: "the batch could not be read"}
	}
	done, wait := w.turns.take(w.held, partiesOf(notice.Batch))
	if done == nil {
		return &laterError{after: wait, reason: "the webhooks of the same owner or receiver go first"}
	}
	crash.At(crash.WebhookTaken)
	delivery, cause := func() (batch.Delivery, string) {
		defer done()
		return w.hooks.deliver(w.held, notice)
	}()
	crash.At(crash.WebhookSent)
	if w.held.Err() != nil && delivery.Status == 0 {
		return &laterError{after: storeAway, reason: "a shutdown interrupted the delivery"}
	}
	state, wait := after(&delivery, failures)
	next := time.Time{}
	if state == batch.DeliveryPending {
		next = time.Now().Add(wait)
		if delivery.Error == errUnreachable.Error() {
			next = delivery.At.Add(wait) // the duration is not told here either
		}
	}
	w.metrics.webhooks.WithLabelValues(string(state)).Inc()
	w.log.InfoContext(w.held, "webhook attempt", "batch", id, "attempt", failures+1, "status", delivery.Status,
		"error", delivery.Error, "cause", cause, "state", string(state), "duration_ms", delivery.DurationMS)
	err = w.retryUnavailable(w.held, func(ctx context.Context) error {
		return w.cfg.Ledger.Delivered(ctx, id, number, delivery, state, next)
	})
	crash.At(crash.WebhookRecorded)
	switch {
	case errors.Is(err, batch.ErrNotFound), errors.Is(err, batch.ErrStale):
		return nil // the batch is gone, was retried, or its event is delivered again: this attempt changes nothing
	case err != nil:
		w.log.ErrorContext(w.held, "webhook attempt not recorded", "batch", id, "error", err)
		return &laterError{after: storeAway, reason: "the attempt could not be recorded"}
	case state == batch.DeliveryPending:
		return &laterError{after: time.Until(next), reason: "the receiver did not accept the webhook", failed: true}
	}
	return nil
}

// readNotice reads the event of a webhook. While the store is unavailable, it retries until the
// worker interrupts its handlers.
func (w *Worker) readNotice(id string, number int) (*batch.Notice, error) {
	for {
		notice, err := w.cfg.Ledger.Webhook(w.held, id, number)
		if !isAway(err) {
			return notice, err
		}
		select {
		case <-w.held.Done():
			return nil, err
		case <-time.After(storePause):
		}
	}
}

// isFailedDelivery tells asynq whether a run counts as a failed one.
func isFailedDelivery(err error) bool {
	later := (*laterError)(nil)
	return errors.As(err, &later) && later.failed
}

// after returns the state of a delivery after an attempt that followed a number of failures, and the
// delay until the next attempt.
func after(d *batch.Delivery, failures int) (batch.DeliveryState, time.Duration) {
	switch {
	case d.Error == "" && d.Status >= 200 && d.Status <= 299:
		return batch.DeliveryDelivered, 0
	case d.Status == http.StatusGone:
		return batch.DeliveryGone, 0
	case failures >= len(schedule):
		return batch.DeliveryFailed, 0
	}
	wait := schedule[failures]
	return batch.DeliveryPending, wait + rand.N(wait/10) //nolint:gosec // jitter is no secret
}

// deliver makes one attempt. The error in the delivery is for the owner: it contains nothing
// of the URL, which may be a secret, and nothing of batchd's network. Cause is for the log of
// the worker, and contains nothing of the URL either.
func (d *deliverer) deliver(ctx context.Context, n *batch.Notice) (out batch.Delivery, cause string) {
	start := time.Now()
	out = batch.Delivery{Round: n.Round, MessageID: n.MessageID, At: start.UTC().Truncate(time.Millisecond)}
	status, err := d.post(ctx, n, start)
	out.DurationMS = time.Since(start).Milliseconds()
	out.Status = status
	switch {
	case err != nil:
		out.Error, cause = reason(err)
		if out.Error == errUnreachable.Error() {
			out.DurationMS = 0 // it would tell a refused address from one that does not answer
		}
	case status >= 300 && status <= 399:
		out.Error = "the receiver answered with a redirect, which is not followed"
	case status < 200 || status > 299:
		out.Error = fmt.Sprintf("the receiver answered %d %s", status, http.StatusText(status))
	}
	return out, cause
}

func (d *deliverer) post(ctx context.Context, n *batch.Notice, now time.Time) (int, error) {
	secrets, err := d.secrets(n.Batch)
	if err != nil {
		return 0, err
	}
	if d.cfg.CheckURL(n.Batch.WebhookURL, n.Batch.Owner, nil) != nil { // the settings may have changed since the submission
		return 0, webhook.ErrHost
	}
	payload, err := encodeNotice(n)
	if err != nil {
		return 0, err
	}
	signature, err := webhook.Sign(n.MessageID, now, payload, secrets...)
	if err != nil {
		return 0, deliveryError("the webhook could not be signed")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, n.Batch.WebhookURL, bytes.NewReader(payload))
	if err != nil {
		return 0, webhook.ErrHost // not reached: the URL was checked
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", d.agent)
	req.Header.Set("Webhook-Id", n.MessageID)
	req.Header.Set("Webhook-Timestamp", strconv.FormatInt(now.Unix(), 10))
	req.Header.Set("Webhook-Signature", signature)
	resp, err := d.client.Do(req)
	if err != nil {
		return 0, err //nolint:wrapcheck // reason describes it
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, 4<<10) // so that the connection can be reused
	return resp.StatusCode, nil
}

// secrets returns the secrets that sign the webhook of a batch: its own, or those of its
// owner.
func (d *deliverer) secrets(b *batch.Batch) ([]setting.Secret, error) {
	if d.cfg.Secret == "" {
		return nil, deliveryError("this worker has no webhooks.secret to sign with")
	}
	if b.WebhookSecret != "" {
		return []setting.Secret{setting.Secret(b.WebhookSecret)}, nil
	}
	own, err := d.cfg.OwnerSecrets(b.Owner)
	if err != nil {
		return nil, deliveryError("the webhook could not be signed")
	}
	return []setting.Secret{own.Secret, own.Previous}, nil
}

// deliveryError is a failure with a description for the delivery log.
type deliveryError string

// Error implements error.
func (e deliveryError) Error() string { return string(e) }

// reason returns why a webhook could not be delivered: for its owner, and for the log of the
// worker.
func reason(err error) (owner, cause string) {
	var dns *net.DNSError
	var op *net.OpError
	var timeout net.Error
	var ours deliveryError
	switch {
	case errors.As(err, &ours):
		return ours.Error(), ""
	case errors.Is(err, webhook.ErrHost):
		return errUnreachable.Error(), "the settings of webhooks do not allow the host, its address or its port"
	case errors.As(err, &dns):
		return errUnreachable.Error(), "the name does not resolve"
	case errors.As(err, &op) && op.Op == "dial":
		if op.Timeout() {
			return errUnreachable.Error(), "no connection within " + dialTimeout.String()
		}
		return errUnreachable.Error(), "the connection was refused"
	case errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Sprintf("the receiver did not answer within %s", webhookTimeout), ""
	}
	if certificate := (*tls.CertificateVerificationError)(nil); errors.As(err, &certificate) {
		return "the receiver's certificate cannot be trusted", ""
	}
	if handshake := (tls.RecordHeaderError{}); errors.As(err, &handshake) {
		return "the receiver does not speak TLS", ""
	}
	return "the exchange with the receiver was interrupted", "" // net/http's error contains the URL
}

// noticeDocument is the body of a webhook, as api/openapi.yaml describes it. The results
// follow as its last part.
type noticeDocument struct {
	Type      string     `json:"type"`
	Timestamp string     `json:"timestamp"`
	Data      noticeData `json:"data"`
}

type noticeData struct {
	ID       string            `json:"id"`
	Round    int               `json:"round"`
	Status   batch.Status      `json:"status"`
	Counts   batch.Counts      `json:"counts"`
	Metadata map[string]string `json:"metadata,omitempty"`
	Links    map[string]string `json:"links"`
}

// encodeNotice returns the same bytes for the same event. Results have the same bytes as in every
// other answer.
func encodeNotice(n *batch.Notice) ([]byte, error) {
	b := n.Batch
	doc := noticeDocument{
		Type: "batch." + string(b.Status), Timestamp: b.EndedAt.UTC().Format(timeFormat),
		Data: noticeData{
			ID: b.ID, Round: n.Round, Status: b.Status, Counts: b.Counts, Metadata: b.Metadata,
			Links: map[string]string{"self": "/batch/" + b.ID, "results": "/batch/" + b.ID + "/results"},
		},
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(doc); err != nil {
		return nil, fmt.Errorf("encode the webhook of batch %s: %w", b.ID, err)
	}
	if n.Results == nil {
		return bytes.TrimSuffix(out.Bytes(), []byte("\n")), nil
	}
	out.Truncate(out.Len() - len("}}\n"))
	out.WriteString(`,"results":[`)
	out.Write(bytes.Join(n.Results, []byte{','}))
	out.WriteString("]}}")
	return out.Bytes(), nil
}
