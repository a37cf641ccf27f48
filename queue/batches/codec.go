package batches

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/seal"
)

// Codec encodes and seals the stored values of batches, and reverses that.
type Codec struct{ seals *seal.Sealer }

// private is the part of a batch that may hold secrets.
type private struct {
	WebhookURL string            `json:"webhook_url,omitempty"`
	Metadata   map[string]string `json:"metadata,omitempty"`
}

// DecodeBatch decodes the hash of a batch.
func (c *Codec) DecodeBatch(id string, m map[string]string) (*batch.Batch, error) {
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
		opened, err := c.seals.Open(seal.Label{ID: id, Kind: "m"}, []byte(sealed))
		if err != nil {
			return nil, fmt.Errorf("read batch %s: %w", id, err)
		}
		var p private
		if err := json.Unmarshal(opened, &p); err != nil {
			return nil, fmt.Errorf("read batch %s: decode the private part: %w", id, err)
		}
		b.WebhookURL, b.Metadata = p.WebhookURL, p.Metadata
	}
	return b, nil
}

// SealPrivate seals the part of a submission that may hold secrets, or returns nil if that is empty.
func (c *Codec) SealPrivate(id string, spec *batch.Spec) []byte {
	if spec.WebhookURL == "" && len(spec.Metadata) == 0 {
		return nil
	}
	encoded, _ := json.Marshal(private{WebhookURL: spec.WebhookURL, Metadata: spec.Metadata}) // strings always encode
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
	opened, err := c.seals.Open(seal.Label{ID: id, Kind: "g", Index: leader}, []byte(sealed))
	if err != nil {
		return nil, fmt.Errorf("read group %d of batch %s: %w", leader, id, err)
	}
	g := &batch.Group{}
	if err := json.Unmarshal(opened, g); err != nil {
		return nil, fmt.Errorf("read group %d of batch %s: %w", leader, id, err)
	}
	return g, nil
}

func (c *Codec) openResult(id string, index int, sealed string) (*batch.Result, error) {
	opened, err := c.seals.Open(seal.Label{ID: id, Kind: "r", Index: index}, []byte(sealed))
	if err != nil {
		return nil, fmt.Errorf("read the result of action %d of batch %s: %w", index, id, err)
	}
	r := &batch.Result{}
	if err := r.UnmarshalJSON(opened); err != nil {
		return nil, fmt.Errorf("read the result of action %d of batch %s: %w", index, id, err)
	}
	return r, nil
}

// OpenAction opens a stored action.
func (c *Codec) OpenAction(id string, index int, sealed string) (batch.Action, error) {
	opened, err := c.seals.Open(seal.Label{ID: id, Kind: "a", Index: index}, []byte(sealed))
	if err != nil {
		return batch.Action{}, fmt.Errorf("read action %d of batch %s: %w", index, id, err)
	}
	a, err := decodeAction(opened)
	if err != nil {
		return batch.Action{}, fmt.Errorf("read action %d of batch %s: %w", index, id, err)
	}
	return a, nil
}
