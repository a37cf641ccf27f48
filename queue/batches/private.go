package batches

import (
	"encoding/json"
	"fmt"

	"github.com/batchd/batchd/internal/batch"
)

// private is what of a batch may hold secrets.
type private struct {
	WebhookURL string            `json:"webhook_url,omitempty"`
	Metadata   map[string]string `json:"metadata,omitempty"`
}

func EncodePrivate(spec *batch.Spec) []byte {
	if spec.WebhookURL == "" && len(spec.Metadata) == 0 {
		return nil
	}
	out, _ := json.Marshal(private{WebhookURL: spec.WebhookURL, Metadata: spec.Metadata}) // strings always encode
	return out
}

func decodePrivate(data []byte, b *batch.Batch) error {
	var p private
	if err := json.Unmarshal(data, &p); err != nil {
		return fmt.Errorf("decode the private part: %w", err)
	}
	b.WebhookURL, b.Metadata = p.WebhookURL, p.Metadata
	return nil
}
