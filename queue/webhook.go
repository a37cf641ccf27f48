package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/crash"
)

const (
	// logEntries is the most attempts that a delivery log keeps.
	logEntries = 50
	// deliveryGrace is how long a batch outlives the time at which the next
	// attempt at its webhook is due.
	deliveryGrace = time.Hour
	// noticeResults is the largest batch whose results go along with its webhook.
	noticeResults = 100
)

// messageID is the webhook-id of a batch's end: the same for every attempt, and
// another for the end that follows a retry.
func messageID(id, round string) string {
	if round == "" {
		return "msg_" + id
	}
	return "msg_" + id + "_" + round
}

// webhookTaskID is that of the one task that delivers a batch's webhook.
func webhookTaskID(id string) string { return id + ":webhook" }

// tellIf enqueues the webhook where a step says that it wrote the outbox mark.
// A failure is only logged: the mark stands, and the sweeper looks for it.
func (s *Store) tellIf(ctx context.Context, id, mark string) {
	if mark != "1" {
		return
	}
	crash.At(crash.OutboxMarked)
	if err := s.tell(context.WithoutCancel(ctx), id); err != nil {
		s.log.WarnContext(ctx, "webhook not enqueued, the sweeper will do it", "batch", id, "error", err)
	}
}

// tell enqueues the webhook of a batch, and only then clears its outbox mark:
// a crash in between enqueues it twice, never not at all.
func (s *Store) tell(ctx context.Context, id string) error {
	ctx, cancel := s.within(ctx)
	defer cancel()
	// Pending comes before the task, which may be done before this is.
	if err := s.noteDelivery(ctx, id, "", batch.DeliveryPending, time.Now()); errors.Is(err, batch.ErrNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	crash.At(crash.WebhookNoted)
	got, err := s.enqueueTasks(ctx, []newTask{{queue: WebhookQueue, kind: TaskWebhook, id: webhookTaskID(id), payload: EncodeTask(id, 0)}})
	if err == nil && got.added == 0 {
		// It waits for a later attempt: have that one made now. If it is just being
		// made, the mark stays, and the sweeper asks again when it has ended.
		err = s.inspect.RunTask(WebhookQueue, webhookTaskID(id))
		if err != nil && strings.Contains(err.Error(), "already in pending state") {
			err = nil
		}
		s.wake(WebhookQueue)
	}
	if err != nil {
		return fmt.Errorf("enqueue the webhook: %w", mapError(ctx, err))
	}
	crash.At(crash.WebhookEnqueued)
	return mapError(ctx, s.rdb.HDel(ctx, keysOf(id).meta, "outbox").Err())
}

// Redeliver implements [batch.Store].
func (s *Store) Redeliver(ctx context.Context, owner, id string) error {
	if _, err := s.Get(ctx, owner, id, 0); err != nil {
		return err
	}
	if err := s.reopen(ctx, id); err != nil {
		return err
	}
	answer, err := s.run(ctx, s.steps.redeliver, []string{keysOf(id).meta}, owner)
	if err != nil {
		return fmt.Errorf("redeliver the webhook of batch %s: %w", id, err)
	}
	switch answer[0] {
	case "no_webhook":
		return batch.ErrNoWebhook
	case "not_terminal":
		return batch.ErrNotTerminal
	case "gone":
		return batch.ErrNotFound
	}
	s.tellIf(ctx, id, "1")
	return nil
}

// Deliveries implements [batch.Store].
func (s *Store) Deliveries(ctx context.Context, owner, id string) (*batch.DeliveryLog, error) {
	if !known(id) {
		return nil, batch.ErrNotFound
	}
	m, err := s.meta(ctx, id)
	if err != nil {
		return nil, err
	}
	if len(m) == 0 || m["owner"] != owner {
		return nil, batch.ErrNotFound
	}
	if m["webhook"] == "" {
		return nil, batch.ErrNoWebhook
	}
	return s.deliveryLog(ctx, id, m)
}

func (s *Store) deliveryLog(ctx context.Context, id string, m map[string]string) (*batch.DeliveryLog, error) {
	ctx, cancel := s.within(ctx)
	defer cancel()
	l := &batch.DeliveryLog{MessageID: messageID(id, m["round"]), State: batch.DeliveryState(m["delivery"]), Attempts: []batch.Delivery{}}
	if next := fromMillis(m["next"]); !next.IsZero() {
		l.NextAt = &next
	}
	stored, err := s.rdb.LRange(ctx, keysOf(id).deliveries, 0, -1).Result()
	if err != nil {
		return nil, mapError(ctx, err)
	}
	for _, sealed := range stored {
		opened, err := s.seals.open(place{id, "w", 0}, []byte(sealed))
		if err != nil {
			return nil, fmt.Errorf("read the delivery log of batch %s: %w", id, err)
		}
		var d batch.Delivery
		if err := json.Unmarshal(opened, &d); err != nil {
			return nil, fmt.Errorf("read the delivery log of batch %s: %w", id, err)
		}
		l.Attempts = append(l.Attempts, d)
	}
	return l, nil
}

// Webhook implements [batch.Ledger].
func (s *Store) Webhook(ctx context.Context, id string) (*batch.Notice, error) {
	m, err := s.meta(ctx, id)
	if err != nil {
		return nil, err
	}
	if len(m) == 0 {
		return nil, batch.ErrNotFound
	}
	n := &batch.Notice{}
	if n.Batch, err = s.batchFrom(id, m); err != nil {
		return nil, err
	}
	if n.Log, err = s.deliveryLog(ctx, id, m); err != nil {
		return nil, err
	}
	if n.Batch.Counts.Total > noticeResults {
		return n, nil
	}
	page, err := s.Results(ctx, n.Batch.Owner, id, batch.ResultQuery{Limit: noticeResults})
	if err != nil {
		return nil, err
	}
	if page.Next < 0 { // else they are few, but large
		n.Results = page.Results
		for i, r := range n.Results {
			n.Results[i] = batch.Served(r)
		}
	}
	return n, nil
}

// Delivered implements [batch.Ledger].
func (s *Store) Delivered(ctx context.Context, id string, d batch.Delivery, state batch.DeliveryState, nextAt time.Time) error {
	encoded, err := json.Marshal(d)
	if err != nil {
		return fmt.Errorf("encode a delivery: %w", err)
	}
	return s.noteDelivery(ctx, id, string(s.seals.seal(place{id, "w", 0}, encoded)), state, nextAt)
}

func (s *Store) noteDelivery(ctx context.Context, id, sealed string, state batch.DeliveryState, nextAt time.Time) error {
	k := keysOf(id)
	next, hold := "", int64(0)
	if !nextAt.IsZero() {
		next = fmt.Sprint(nextAt.UnixMilli())
		hold = millis(time.Until(nextAt) + deliveryGrace)
	}
	answer, err := s.run(ctx, s.steps.delivered, append(k.step(), k.deliveries), sealed, string(state), next, logEntries, hold)
	if err != nil {
		return fmt.Errorf("note a delivery of batch %s: %w", id, err)
	}
	return verdictError(answer[0])
}
