package worker

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"code.dny.dev/ssrf"
	"github.com/hibiken/asynq"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/crash"
	"github.com/batchd/batchd/internal/setting"
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
	// Secret signs webhooks as in Standard Webhooks: "whsec_" and the base64 of 24 to 64
	// bytes. Defaults to none; then no webhooks are delivered.
	Secret setting.Secret `yaml:"secret"`
	// AllowPrivate allows webhooks to loopback and private addresses. Defaults to false.
	AllowPrivate bool `yaml:"allow_private"`
	// UserAgent defaults to "batchd".
	UserAgent string
}

// Check reports the faults of the settings.
func (w WebhookConfig) Check(c *setting.Checker) { c.Check("secret", checkSecret(w.Secret)) }

// checkSecret checks a secret against Standard Webhooks, "Signature scheme".
func checkSecret(s setting.Secret) error {
	const (
		prefix   = "whsec_"
		least    = 24
		most     = 64
		expected = "expected " + prefix + " and the base64 of 24 to 64 bytes: make one with: echo " + prefix + "$(openssl rand -base64 32)"
	)
	if s == "" {
		return nil
	}
	encoded, ok := strings.CutPrefix(s.Reveal(), prefix)
	if !ok {
		return errors.New("the secret does not start with " + prefix + ": " + expected)
	}
	raw, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return errors.New("the secret is not valid base64: " + expected)
	}
	if len(raw) < least || len(raw) > most {
		return fmt.Errorf("the secret has %d bytes: %s", len(raw), expected)
	}
	return nil
}

// deliverer posts signed webhooks.
type deliverer struct {
	signer    *standardwebhooks.Webhook
	client    *http.Client
	transport *http.Transport
	agent     string
}

// errBlocked means that batchd must not call the address of a webhook.
var errBlocked = errors.New("the receiver's address is not public, and webhooks.allow_private is off")

func newDeliverer(cfg WebhookConfig) (*deliverer, error) {
	d := &deliverer{agent: cfg.UserAgent}
	if d.agent == "" {
		d.agent = "batchd"
	}
	if cfg.Secret != "" {
		var err error
		if d.signer, err = standardwebhooks.NewWebhook(cfg.Secret.Reveal()); err != nil {
			return nil, errors.New("webhooks.secret cannot be read: expected whsec_ and base64")
		}
	}
	dialer := &net.Dialer{Timeout: webhookTimeout / 3}
	if !cfg.AllowPrivate {
		// The guard checks the address that the dialer uses and not the name, which may resolve to
		// another address a moment later.
		guard := ssrf.New(ssrf.WithAnyPort(), ssrf.WithDeniedV4Prefixes(netip.MustParsePrefix("168.63.129.16/32")))
		dialer.Control = guard.Safe
	}
	d.transport = &http.Transport{
		DialContext: dialer.DialContext, Proxy: nil, ForceAttemptHTTP2: true, DisableCompression: true,
		TLSHandshakeTimeout: webhookTimeout / 3, MaxResponseHeaderBytes: 64 << 10,
		MaxIdleConns: 64, MaxIdleConnsPerHost: 4, IdleConnTimeout: 30 * time.Second,
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
	crash.At(crash.WebhookTaken)
	delivery := w.hooks.deliver(w.held, notice)
	crash.At(crash.WebhookSent)
	if w.held.Err() != nil && delivery.Status == 0 {
		return &laterError{after: storeAway, reason: "a shutdown interrupted the delivery"}
	}
	state, wait := after(&delivery, failures)
	next := time.Time{}
	if state == batch.DeliveryPending {
		next = time.Now().Add(wait)
	}
	w.metrics.webhooks.WithLabelValues(string(state)).Inc()
	w.log.InfoContext(w.held, "webhook attempt", "batch", id, "attempt", failures+1, "status", delivery.Status,
		"error", delivery.Error, "state", string(state), "duration_ms", delivery.DurationMS)
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
		return &laterError{after: wait, reason: "the receiver did not accept the webhook", failed: true}
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

// deliver makes one attempt. Its error contains nothing of the URL, which may be a secret.
func (d *deliverer) deliver(ctx context.Context, n *batch.Notice) batch.Delivery {
	start := time.Now()
	out := batch.Delivery{Round: n.Round, MessageID: n.MessageID, At: start.UTC().Truncate(time.Millisecond)}
	status, err := d.post(ctx, n, start)
	out.DurationMS = time.Since(start).Milliseconds()
	out.Status = status
	switch {
	case err != nil:
		out.Error = reason(err)
	case status >= 300 && status <= 399:
		out.Error = "the receiver answered with a redirect, which is not followed"
	case status < 200 || status > 299:
		out.Error = fmt.Sprintf("the receiver answered %d %s", status, http.StatusText(status))
	}
	return out
}

func (d *deliverer) post(ctx context.Context, n *batch.Notice, now time.Time) (int, error) {
	if d.signer == nil {
		return 0, deliveryError("this worker has no webhooks.secret to sign with")
	}
	payload, err := encodeNotice(n)
	if err != nil {
		return 0, err
	}
	signature, err := d.signer.Sign(n.MessageID, now, payload)
	if err != nil {
		return 0, deliveryError("the webhook could not be signed")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, n.Batch.WebhookURL, bytes.NewReader(payload))
	if err != nil {
		return 0, deliveryError("the webhook's URL cannot be parsed")
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

// deliveryError is a failure with a description for the delivery log.
type deliveryError string

// Error implements error.
func (e deliveryError) Error() string { return string(e) }

// reason returns why a webhook could not be delivered.
func reason(err error) string {
	var dns *net.DNSError
	var op *net.OpError
	var timeout net.Error
	var ours deliveryError
	switch {
	case errors.As(err, &ours):
		return ours.Error()
	case errors.Is(err, ssrf.ErrProhibitedIP), errors.Is(err, ssrf.ErrProhibitedNetwork), errors.Is(err, ssrf.ErrProhibitedPort):
		return errBlocked.Error()
	case errors.As(err, &dns):
		return "the receiver's name does not resolve"
	case errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Sprintf("the receiver did not answer within %s", webhookTimeout)
	case errors.As(err, &op) && op.Op == "dial":
		return "the receiver refused the connection"
	}
	if certificate := (*tls.CertificateVerificationError)(nil); errors.As(err, &certificate) {
		return "the receiver's certificate cannot be trusted"
	}
	if handshake := (tls.RecordHeaderError{}); errors.As(err, &handshake) {
		return "the receiver does not speak TLS"
	}
	return "the exchange with the receiver was interrupted" // net/http's error contains the URL
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
