package batches

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/seal"
)

// Codec encodes and seals the stored values of batches, and reverses that.
type Codec struct{ seals *seal.Sealer }

// private is the part of a batch that may hold secrets.
type private struct {
	WebhookURL    string            `json:"webhook_url,omitempty"`
	WebhookSecret string            `json:"webhook_secret,omitempty"`
	Metadata      map[string]string `json:"metadata,omitempty"`
}

// kindNames has the kinds of sealed values of a batch, as errors name them.
var kindNames = map[string]string{
	"a": "action %d", "r": "the result of action %d", lastKind: "the last attempt at action %d", "g": "group %d", entryKind: "the ledger entry of action %d",
	"m": "the webhook URL and metadata", "w": "the delivery log",
}

// Open opens a sealed value of a batch. Its error is a [batch.DamagedError], which names the batch and the value.
func (c *Codec) Open(id, kind string, index int, sealed []byte) ([]byte, error) {
	opened, err := c.seals.Open(seal.Label{ID: id, Kind: kind, Index: index}, sealed)
	if err != nil {
		return nil, Damaged(id, kind, index, err)
	}
	return opened, nil
}

// Damaged returns the error of a stored value of a batch that cannot be read.
func Damaged(id, kind string, index int, err error) error {
	name := kindNames[kind]
	if strings.Contains(name, "%d") {
		name = fmt.Sprintf(name, index)
	}
	return &batch.DamagedError{ID: id, Err: fmt.Errorf("read %s of batch %s: %w", name, id, err)}
}

// DecodeBatch verifies and decodes the hash of a batch.
func (c *Codec) DecodeBatch(id string, m map[string]string) (*batch.Batch, error) {
	if err := c.Verify(id, m); err != nil {
		return nil, err
	}
	if err := checkHash(id, m); err != nil {
		return nil, err
	}
	b := &batch.Batch{
		ID: id, Owner: m["owner"], Target: m["target"], Lane: batch.Lane(m["lane"]),
		Status: batch.Status(m["status"]), Scope: m["scope"], Retention: time.Duration(rdb.Atoi(m["retention"])) * time.Millisecond,
		CreatedAt: rdb.FromMillis(m["created"]), StartedAt: rdb.FromMillis(m["started"]),
		EndedAt: rdb.FromMillis(m["ended"]), ExpiresAt: rdb.FromMillis(m["expires"]),
	}
	b.Counts.Total = int(rdb.Atoi(m["total"]))
	for _, o := range batch.Outcomes() {
		*b.Counts.Of(o) = int(rdb.Atoi(m[o.String()]))
	}
	if sealed := m["private"]; sealed != "" {
		opened, err := c.Open(id, "m", 0, []byte(sealed))
		if err != nil {
			return nil, err
		}
		var p private
		if err := json.Unmarshal(opened, &p); err != nil {
			return nil, Damaged(id, "m", 0, err)
		}
		b.WebhookURL, b.WebhookSecret, b.Metadata = p.WebhookURL, p.WebhookSecret, p.Metadata
	}
	return b, nil
}

// SealPrivate seals the part of a submission that may hold secrets, or returns nil if that is empty.
func (c *Codec) SealPrivate(id string, spec *batch.Spec) []byte {
	if spec.WebhookURL == "" && len(spec.Metadata) == 0 {
		return nil
	}
	encoded, _ := json.Marshal(private{WebhookURL: spec.WebhookURL, WebhookSecret: spec.WebhookSecret, Metadata: spec.Metadata}) // strings always encode
	return c.seals.Seal(seal.Label{ID: id, Kind: "m"}, encoded)
}

// SealGroup seals the record of a group.
func (c *Codec) SealGroup(id string, g *batch.Group) ([]byte, error) {
	encoded, err := json.Marshal(g)
	if err != nil {
		return nil, fmt.Errorf("encode group %d of batch %s: %w", g.Leader(), id, err)
	}
	return c.seals.Seal(seal.Label{ID: id, Kind: "g", Index: g.Leader()}, encoded), nil
}

// OpenGroup opens the record of the group that the action at that index leads.
func (c *Codec) OpenGroup(id string, leader int, sealed string) (*batch.Group, error) {
	opened, err := c.Open(id, "g", leader, []byte(sealed))
	if err != nil {
		return nil, err
	}
	g := &batch.Group{}
	if err := json.Unmarshal(opened, g); err != nil {
		return nil, Damaged(id, "g", leader, err)
	}
	return g, nil
}

// decodeResult opens and decodes a result of the kind "r", or the last attempt at an action.
func (c *Codec) decodeResult(id, kind string, index int, sealed string) (*batch.Result, error) {
	opened, err := c.Open(id, kind, index, []byte(sealed))
	if err != nil {
		return nil, err
	}
	r := &batch.Result{}
	if err := r.UnmarshalJSON(opened); err != nil {
		return nil, Damaged(id, kind, index, err)
	}
	return r, nil
}

// openResult opens the result of an action in a state that has one. Whoever can write to Redis can change the
// state, but not so that readers are told another outcome than that of the result.
func (c *Codec) openResult(id string, index int, state byte, sealed string) ([]byte, error) {
	if sealed == "" {
		return nil, Damaged(id, "r", index, fmt.Errorf("%w: there is none, and the state of the action is %s", seal.ErrChanged, states[state]))
	}
	opened, err := c.Open(id, "r", index, []byte(sealed))
	if err == nil && !batch.HasOutcome(opened, states[state]) {
		err = Damaged(id, "r", index, fmt.Errorf("%w: its outcome is not %s, which is the state of the action", seal.ErrSealed, states[state]))
	}
	return opened, err
}

// OpenAction opens a stored action.
func (c *Codec) OpenAction(id string, index int, sealed string) (batch.Action, error) {
	opened, err := c.Open(id, "a", index, []byte(sealed))
	if err != nil {
		return batch.Action{}, err
	}
	a, err := decodeAction(opened)
	if err != nil {
		return batch.Action{}, Damaged(id, "a", index, err)
	}
	return a, nil
}
