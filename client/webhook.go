package client

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// Event is the content of a webhook.
type Event struct {
	// ID is the webhook-id. Every delivery of an event has the same ID, so a receiver
	// can ignore an ID that it has seen.
	ID string `json:"-"`
	// Type is the type of the event, such as "batch.completed".
	Type string `json:"type"`
	// Timestamp is when the event happened.
	Timestamp time.Time `json:"timestamp"`
	// Round counts the ends of the batch from 1: each retry leads to another end, which
	// is an event with an ID of its own.
	Round int `json:"-"`
	// Batch is the batch at its end: its id, status, counts and metadata, and its results
	// if it is small.
	Batch Batch `json:"data"`
}

// minSecret is the least number of bytes of a secret (Standard Webhooks, "Signature
// scheme": 24 to 64 bytes).
const minSecret = 24

// VerifyWebhook checks that a received request was signed with one of the secrets
// ("whsec_…"), at most five minutes ago, and returns its event. Body is the request's
// body, byte for byte as received. The secrets are those of [Client.WebhookSecrets], or the
// one that was given with the batch. While a new secret replaces an old one, a webhook has a
// signature for each, so either is enough.
// On an error, answer 401 and do nothing else.
func VerifyWebhook(header http.Header, body []byte, secrets ...string) (*Event, error) {
	if len(secrets) == 0 {
		return nil, errors.New("verify webhook: there is no secret")
	}
	var err error
	for _, secret := range secrets {
		if err = verify(header, body, secret); err == nil {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("verify webhook: %w", err)
	}
	var doc struct {
		Type      string    `json:"type"`
		Timestamp time.Time `json:"timestamp"`
		Data      struct {
			Batch
			Round int `json:"round"`
		} `json:"data"`
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		return nil, fmt.Errorf("decode webhook: %w", err)
	}
	id := header.Get(standardwebhooks.HeaderWebhookID)
	return &Event{ID: id, Type: doc.Type, Timestamp: doc.Timestamp, Round: doc.Data.Round, Batch: doc.Data.Batch}, nil
}

func verify(header http.Header, body []byte, secret string) error {
	// The library would accept an empty key, with which anyone can sign.
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil || len(key) < minSecret {
		return fmt.Errorf("the secret is not usable: expected whsec_ and at least %d bytes in base64", minSecret)
	}
	wh, err := standardwebhooks.NewWebhookRaw(key)
	if err != nil {
		return err
	}
	return wh.Verify(body, header)
}

// DeliveryState is the state of a webhook.
type DeliveryState string

// The states of a webhook.
const (
	DeliveryWaiting   DeliveryState = "waiting"   // the batch has not ended
	DeliveryPending   DeliveryState = "pending"   // an attempt is due or under way
	DeliveryDelivered DeliveryState = "delivered" // the receiver answered 2xx
	DeliveryGone      DeliveryState = "gone"      // the receiver answered 410: no further attempts
	DeliveryFailed    DeliveryState = "failed"    // the schedule is exhausted
	DeliveryWithdrawn DeliveryState = "withdrawn" // the batch was retried before the event was delivered
)

// DeliveryLog is the log of a batch's webhook.
type DeliveryLog struct {
	// Round is the present round of the batch: 1, and one more for each retry.
	Round int `json:"round"`
	// MessageID is the webhook-id of the event of this round.
	MessageID string        `json:"message_id"`
	State     DeliveryState `json:"state"`
	// NextAt is when the next attempt is due, or nil.
	NextAt *time.Time `json:"next_at,omitempty"`
	// Attempts are the attempts of all rounds, oldest first.
	Attempts []Delivery `json:"attempts"`
	// Earlier has the events of earlier rounds, oldest first.
	Earlier []PastDelivery `json:"earlier,omitempty"`
}

// PastDelivery is the final state of the event of an earlier round.
type PastDelivery struct {
	Round     int           `json:"round"`
	MessageID string        `json:"message_id"`
	State     DeliveryState `json:"state"`
}

// Delivery is one attempt at delivering a webhook.
type Delivery struct {
	// Round and MessageID name the event that was sent.
	Round     int       `json:"round"`
	MessageID string    `json:"message_id"`
	At        time.Time `json:"at"`
	// Status is the receiver's status, or 0 if it did not answer; Error then has the
	// reason.
	Status     int    `json:"status,omitempty"`
	Error      string `json:"error,omitempty"`
	DurationMS int64  `json:"duration_ms"`
}

// Deliveries returns the log of the batch's webhook. For a batch without a webhook the
// error is a 404.
func (c *Client) Deliveries(ctx context.Context, id string) (*DeliveryLog, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	return retryTransient(ctx, c.retryFor, func() (*DeliveryLog, error) {
		return decode[DeliveryLog](ctx, c, call{method: http.MethodGet, path: []string{id, "webhook"}})
	})
}

// WebhookSecrets are the secrets that sign the webhooks of the client's batches, for
// [VerifyWebhook].
type WebhookSecrets struct {
	Secret string `json:"secret"`
	// PreviousSecret also signs them while the server's secret is replaced. It is empty
	// otherwise.
	PreviousSecret string `json:"previous_secret,omitempty"`
}

// WebhookSecrets returns the client's secrets. If the server delivers no webhooks, the error
// is a 404.
func (c *Client) WebhookSecrets(ctx context.Context) (*WebhookSecrets, error) {
	return retryTransient(ctx, c.retryFor, func() (*WebhookSecrets, error) {
		return decode[WebhookSecrets](ctx, c, call{method: http.MethodGet, root: "webhook-secret"})
	})
}

// Redeliver sends the event of a batch that has ended again: the same bytes with the same id.
func (c *Client) Redeliver(ctx context.Context, id string) error {
	if err := checkID(id); err != nil {
		return err
	}
	resp, err := c.do(ctx, call{method: http.MethodPost, path: []string{id, "webhook", "redeliver"}})
	if err != nil {
		return err
	}
	return resp.Body.Close()
}
