package queuetest

import (
	"strconv"

	"github.com/batchd/batchd/internal/batch"
)

// WebhookTaskID returns the id of the task of a delivery.
func WebhookTaskID(id string, delivery int) string { return id + ":webhook:" + strconv.Itoa(delivery) }

// SubmitFailed submits a batch of n actions with a webhook, and has all of them fail.
func (b *Bundle) SubmitFailed(n int) (id string) {
	b.T.Helper()
	s := Spec()
	s.WebhookURL = "https://example.com/hook"
	id = b.Submit(n, s).ID
	for i := range n {
		b.End(id, i, batch.Failed)
	}
	return id
}
