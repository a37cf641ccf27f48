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
	// Batch is the batch at that time.
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
	event := &Event{ID: header.Get(standardwebhooks.HeaderWebhookID)}
	if err := json.Unmarshal(body, event); err != nil {
		return nil, fmt.Errorf("decode webhook: %w", err)
	}
	return event, nil
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
)

// DeliveryLog is what happened to the webhook of a batch.
type DeliveryLog struct {
	// MessageID is the webhook-id that the receiver sees.
	MessageID string        `json:"message_id"`
	State     DeliveryState `json:"state"`
	// NextAt is when the next attempt is due, nil where there is none.
	NextAt *time.Time `json:"next_at,omitempty"`
	// Attempts are those made, oldest first.
	Attempts []Delivery `json:"attempts"`
}

// Delivery is one attempt at delivering a webhook.
type Delivery struct {
	At time.Time `json:"at"`
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
	return patiently(ctx, c.patience, func() (*DeliveryLog, error) {
		return decode[DeliveryLog](ctx, c, call{method: http.MethodGet, path: []string{id, "webhook"}})
	})
}

// Redeliver has the webhook of a batch that has ended delivered anew.
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
