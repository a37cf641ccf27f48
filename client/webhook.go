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

// Event is what a webhook tells.
type Event struct {
	// ID is the webhook-id. It is the same each time that an event is delivered,
	// so a receiver that has seen it need not act again.
	ID string `json:"-"`
	// Type is such as "batch.completed".
	Type string `json:"type"`
	// Timestamp is when the event happened.
	Timestamp time.Time `json:"timestamp"`
	// Round counts the ends of the batch from 1: each retry leads to another, and each
	// is an event with an ID of its own.
	Round int `json:"-"`
	// Batch is the batch as it ended: its id, status, counts and metadata, and its results
	// if it is small.
	Batch Batch `json:"data"`
}

// minSecret is the fewest bytes that a secret may have (Standard Webhooks,
// "Signature scheme": 24 to 64 bytes).
const minSecret = 24

// VerifyWebhook checks that a received request was signed with one of the
// secrets ("whsec_…"), not longer than five minutes ago, and returns the event
// in it. Body is the request's body, byte for byte as received. Give the old
// secret and the new while one replaces the other. On an error, answer 401 and
// do nothing.
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
	// The library would take an empty key, with which anybody can sign.
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
	DeliveryGone      DeliveryState = "gone"      // the receiver answered 410: never again
	DeliveryFailed    DeliveryState = "failed"    // the schedule is exhausted
	DeliveryWithdrawn DeliveryState = "withdrawn" // the batch was retried before the event was delivered
)

// DeliveryLog is what happened to the webhook of a batch.
type DeliveryLog struct {
	// Round is the round that the batch is in: 1, and one more for each retry.
	Round int `json:"round"`
	// MessageID is the webhook-id of the event of this round.
	MessageID string        `json:"message_id"`
	State     DeliveryState `json:"state"`
	// NextAt is when the next attempt is due, nil where there is none.
	NextAt *time.Time `json:"next_at,omitempty"`
	// Attempts are those of all rounds, oldest first.
	Attempts []Delivery `json:"attempts"`
	// Earlier says what became of the events of earlier rounds, oldest first.
	Earlier []PastDelivery `json:"earlier,omitempty"`
}

// PastDelivery is what became of the event of an earlier round.
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
	// Status is the receiver's, 0 where it did not answer; Error then says why.
	Status     int    `json:"status,omitempty"`
	Error      string `json:"error,omitempty"`
	DurationMS int64  `json:"duration_ms"`
}

// Deliveries returns the log of the batch's webhook. A batch without one is a 404.
func (c *Client) Deliveries(ctx context.Context, id string) (*DeliveryLog, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	return retryTransient(ctx, c.retryFor, func() (*DeliveryLog, error) {
		return decode[DeliveryLog](ctx, c, call{method: http.MethodGet, path: []string{id, "webhook"}})
	})
}

// Redeliver sends the event of a batch that has ended again: the same bytes under the same id.
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
