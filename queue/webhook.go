package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/crash"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/seal"
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

// roundOf returns the round that a batch is in. The meta hash names it from the second on.
func roundOf(m map[string]string) int { return max(int(rdb.Atoi(m["round"])), 1) }

// messageID is the webhook-id of the end of a round: the same for every attempt.
func messageID(id string, round int) string {
	if round == 1 {
		return "msg_" + id
	}
	return "msg_" + id + "_" + strconv.Itoa(round)
}

// webhookTaskID is that of the one task of a delivery. asynq counts its failures, so every
// delivery has the whole schedule.
func webhookTaskID(id string, delivery int) string {
	return id + ":webhook:" + strconv.Itoa(delivery)
}

// tellIf enqueues the delivery of which a step says that it wrote the outbox mark.
// A failure is only logged: the mark stands, and the sweeper looks for it.
func (s *Store) tellIf(ctx context.Context, id, mark string) {
	delivery := int(rdb.Atoi(mark))
	if delivery == 0 {
		return
	}
	crash.At(crash.OutboxMarked)
	if err := s.tell(rdb.Detached(ctx), id, delivery); err != nil {
		s.log.WarnContext(ctx, "webhook not enqueued, the sweeper will do it", "batch", id, "error", err)
		s.doubt(id)
	}
}

// tell enqueues a delivery, and only then clears its outbox mark: a crash in between
// has it enqueued again, which asynq or the ledger refuses. A delivery that was
// withdrawn meanwhile changes nothing of the one that follows.
func (s *Store) tell(ctx context.Context, id string, delivery int) error {
	k := keysOf(id)
	answer, err := s.db.Run(ctx, s.steps.due, append(k.step(), k.deliveries), delivery, rdb.Millis(deliveryGrace))
	if err != nil {
		return fmt.Errorf("note that the webhook is due: %w", err)
	}
	if answer[0] != "ok" {
		return nil
	}
	crash.At(crash.WebhookNoted)
	task := newTask{queue: WebhookQueue, kind: TaskWebhook, id: webhookTaskID(id, delivery), payload: EncodeTask(id, delivery)}
	if err := s.enqueueTasks(ctx, []newTask{task}); err != nil {
		return fmt.Errorf("enqueue the webhook: %w", err)
	}
	crash.At(crash.WebhookEnqueued)
	if _, err := s.db.Run(ctx, s.steps.enqueued, []string{k.meta}, delivery); err != nil {
		return fmt.Errorf("clear the outbox mark: %w", err)
	}
	return nil
}

// withdraw removes the task of a delivery that is stale. One that stays, or is under way,
// changes nothing: the ledger refuses what it brings.
func (s *Store) withdraw(ctx context.Context, id, number string) {
	delivery := int(rdb.Atoi(number))
	if delivery == 0 {
		return
	}
	err := s.inspect.DeleteTask(WebhookQueue, webhookTaskID(id, delivery))
	if err != nil && !errors.Is(err, asynq.ErrTaskNotFound) && !errors.Is(err, asynq.ErrQueueNotFound) {
		s.log.DebugContext(ctx, "task of a withdrawn webhook left to its worker", "batch", id, "error", err)
	}
}

// Redeliver implements [batch.Store].
func (s *Store) Redeliver(ctx context.Context, owner, id string) error {
	if _, err := s.Get(ctx, owner, id, 0); err != nil {
		return err
	}
	if err := s.reopen(ctx, id, false); err != nil {
		return err
	}
	answer, err := s.db.Run(ctx, s.steps.redeliver, []string{keysOf(id).meta}, owner)
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
	s.withdraw(ctx, id, answer[2])
	s.tellIf(ctx, id, answer[1])
	return nil
}

// Deliveries implements [batch.Store].
func (s *Store) Deliveries(ctx context.Context, owner, id string) (*batch.DeliveryLog, error) {
	if !known(id) {
		return nil, batch.ErrNotFound
	}
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	k := keysOf(id)
	var meta *redis.MapStringStringCmd
	var stored *redis.StringSliceCmd
	// Of one moment, so that the states are what the attempts led to.
	if _, err := s.db.Client.TxPipelined(ctx, func(p redis.Pipeliner) error {
		meta, stored = p.HGetAll(ctx, k.meta), p.LRange(ctx, k.deliveries, 0, -1)
		return nil
	}); err != nil {
		return nil, rdb.MapError(ctx, err)
	}
	m := meta.Val()
	if len(m) == 0 || m["owner"] != owner {
		return nil, batch.ErrNotFound
	}
	if m["webhook"] == "" {
		return nil, batch.ErrNoWebhook
	}
	return s.deliveryLog(id, m, stored.Val())
}

func (s *Store) deliveryLog(id string, m map[string]string, stored []string) (*batch.DeliveryLog, error) {
	round := roundOf(m)
	l := &batch.DeliveryLog{Round: round, MessageID: messageID(id, round), State: batch.DeliveryState(m["delivery"]), Attempts: []batch.Delivery{}}
	for past := 1; past < round; past++ {
		if state := m["end:"+strconv.Itoa(past)]; state != "" {
			l.Earlier = append(l.Earlier, batch.PastDelivery{Round: past, MessageID: messageID(id, past), State: batch.DeliveryState(state)})
		}
	}
	if next := rdb.FromMillis(m["next"]); !next.IsZero() {
		l.NextAt = &next
	}
	for _, sealed := range stored {
		opened, err := s.seals.Open(seal.Label{ID: id, Kind: "w"}, []byte(sealed))
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

// Webhook implements [batch.Ledger]. Nothing of a batch changes between its end and a
// retry, which withdraws the delivery, so what is read while the delivery counts is the
// batch as it ended, and is the same each time.
func (s *Store) Webhook(ctx context.Context, id string, delivery int) (*batch.Notice, error) {
	seen, err := s.sighting(ctx, id, noticeResults)
	if err != nil {
		return nil, err
	}
	m := seen.meta
	if err := stillDue(m["sending"], m["delivery"], delivery); err != nil {
		return nil, err
	}
	b, err := s.seenBatch(ctx, id, seen)
	if err != nil {
		return nil, err
	}
	n := &batch.Notice{Batch: b, Round: roundOf(m), MessageID: messageID(id, roundOf(m))}
	if b.Counts.Total > noticeResults {
		return n, nil
	}
	page := b.First
	if page == nil || page.Next >= 0 {
		if page, err = s.Results(ctx, b.Owner, id, batch.ResultQuery{Limit: noticeResults}); err != nil {
			return nil, err
		}
	}
	if page.Next < 0 { // else they are few, but large
		n.Results = page.Results
		for i, r := range n.Results {
			n.Results[i] = batch.Served(r)
		}
	}
	return n, s.checkDue(ctx, id, delivery)
}

// checkDue answers as stillDue does, after the results were read.
func (s *Store) checkDue(ctx context.Context, id string, delivery int) error {
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	fields, err := s.db.Client.HMGet(ctx, keysOf(id).meta, "sending", "delivery").Result()
	if err != nil {
		return rdb.MapError(ctx, err)
	}
	return stillDue(rdb.Text(fields[0]), rdb.Text(fields[1]), delivery)
}

// stillDue returns nil if a delivery is the one that counts and is not done.
func stillDue(sending, state string, delivery int) error {
	switch {
	case sending == "":
		return batch.ErrNotFound
	case int(rdb.Atoi(sending)) != delivery || batch.DeliveryState(state) != batch.DeliveryPending:
		return batch.ErrStale
	default:
		return nil
	}
}

// Delivered implements [batch.Ledger]. Repeating it logs an attempt once.
func (s *Store) Delivered(ctx context.Context, id string, delivery int, d batch.Delivery, state batch.DeliveryState, nextAt time.Time) error {
	encoded, err := json.Marshal(d)
	if err != nil {
		return fmt.Errorf("encode a delivery: %w", err)
	}
	k := keysOf(id)
	next, hold := "", int64(0)
	if !nextAt.IsZero() {
		next = strconv.FormatInt(nextAt.UnixMilli(), 10)
		hold = rdb.Millis(time.Until(nextAt) + deliveryGrace)
	}
	// What is sealed differs each time, so a repetition is recognised by this.
	attempt := fmt.Sprintf("%d %d %s", delivery, d.At.UnixNano(), state)
	answer, err := s.db.Run(ctx, s.steps.delivered, append(k.step(), k.deliveries),
		delivery, d.Round, s.seals.Seal(seal.Label{ID: id, Kind: "w"}, encoded), string(state), next, logEntries, hold, attempt)
	if err != nil {
		return fmt.Errorf("note a delivery of batch %s: %w", id, err)
	}
	return verdictError(answer[0])
}
