package batches

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/seal"
)

const (
	// logEntries is the most attempts that a delivery log keeps.
	logEntries = 50
	// noticeResults is the largest batch whose webhook has the results.
	noticeResults = 100
)

// Deliveries are the deliveries of webhooks as the ledger keeps them: which one counts, what it sends,
// and the log of attempts. [Outbox] enqueues their tasks.
type Deliveries struct {
	db      *rdb.DB
	seals   *seal.Sealer
	batches *Batches
}

// RoundOf returns the round of a batch, by its hash, which has the field from the second round on.
func RoundOf(m map[string]string) int { return max(int(rdb.Atoi(m["round"])), 1) }

// messageID returns the webhook-id of the end of a round: the same for every attempt.
func messageID(id string, round int) string {
	if round == 1 {
		return "msg_" + id
	}
	return "msg_" + id + "_" + strconv.Itoa(round)
}

// Log returns the log of deliveries of a batch; see [batch.Store].
func (d *Deliveries) Log(ctx context.Context, owner, id string) (*batch.DeliveryLog, error) {
	if !keys.IsBatchID(id) {
		return nil, batch.ErrNotFound
	}
	ctx, cancel := d.db.WithTimeout(ctx)
	defer cancel()
	k := keys.KeysOf(id)
	parts, err := Steps.Deliveries.Run(ctx, d.db.Client, []string{k.Meta, k.Deliveries}, owner).Slice()
	if err != nil {
		return nil, readError(ctx, id, err)
	}
	if len(parts) != 2 {
		return nil, rdb.ErrAnswer
	}
	m := parseHash(parts[0])
	if len(m) == 0 {
		return nil, batch.ErrNotFound
	}
	if err := d.batches.verify(id, m); err != nil {
		return nil, err
	}
	if m["webhook"] == "" {
		return nil, batch.ErrNoWebhook
	}
	stored, _ := parts[1].([]any)
	return d.decodeLog(id, m, rdb.Texts(stored))
}

func (d *Deliveries) decodeLog(id string, m map[string]string, stored []string) (*batch.DeliveryLog, error) {
	round := RoundOf(m)
	if err := checkDelivery(id, m, round); err != nil {
		return nil, err
	}
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
		opened, err := d.batches.Codec.Open(id, "w", 0, []byte(sealed))
		if err != nil {
			return nil, err
		}
		var attempt batch.Delivery
		if err := json.Unmarshal(opened, &attempt); err != nil {
			return nil, Damaged(id, "w", 0, err)
		}
		l.Attempts = append(l.Attempts, attempt)
	}
	return l, nil
}

// Notice returns the event that a delivery sends; see [batch.Ledger]. Between its end and a retry,
// which withdraws the delivery, nothing of a batch changes. So while the delivery counts, every call
// returns the batch as it ended.
func (d *Deliveries) Notice(ctx context.Context, id string, delivery int) (*batch.Notice, error) {
	seen, err := d.batches.readSnapshot(ctx, id, endedWindow(noticeResults))
	if err != nil {
		return nil, err
	}
	m := seen.meta
	if err := stillDue(m["sending"], m["delivery"], delivery); err != nil {
		return nil, err
	}
	b, err := d.batches.batchOf(ctx, id, seen)
	if err != nil {
		return nil, err
	}
	n := &batch.Notice{Batch: b, Round: RoundOf(m), MessageID: messageID(id, RoundOf(m))}
	if b.Counts.Total > noticeResults {
		return n, nil
	}
	page := b.First
	if page == nil || page.Next >= 0 {
		if page, err = d.batches.Results(ctx, b.Owner, id, batch.ResultQuery{Limit: noticeResults}); err != nil {
			return nil, err
		}
	}
	if page.Next < 0 { // otherwise they are larger than a page
		n.Results = page.Results
		for i, r := range n.Results {
			n.Results[i] = batch.Served(r)
		}
	}
	return n, d.checkDue(ctx, id, delivery)
}

// checkDue returns the error of [stillDue] for the batch as it is now, after the results were read.
func (d *Deliveries) checkDue(ctx context.Context, id string, delivery int) error {
	ctx, cancel := d.db.WithTimeout(ctx)
	defer cancel()
	fields, err := d.db.Client.HMGet(ctx, keys.KeysOf(id).Meta, "sending", "delivery").Result()
	if err != nil {
		return rdb.MapError(ctx, err)
	}
	return stillDue(rdb.Text(fields[0]), rdb.Text(fields[1]), delivery)
}

// stillDue returns nil if a delivery counts and is pending, by two fields of the batch's hash.
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

// Record records an attempt at a delivery; see [batch.Ledger]. Repeating it logs the attempt once.
func (d *Deliveries) Record(ctx context.Context, id string, delivery int, attempt batch.Delivery, state batch.DeliveryState, nextAt time.Time) error {
	encoded, err := json.Marshal(attempt)
	if err != nil {
		return fmt.Errorf("encode a delivery: %w", err)
	}
	k := keys.KeysOf(id)
	next, hold := "", int64(0)
	if !nextAt.IsZero() {
		next = strconv.FormatInt(nextAt.UnixMilli(), 10)
		hold = rdb.Millis(time.Until(nextAt) + deliveryGrace)
	}
	// The sealed bytes differ each time, so the step recognises a repetition by this.
	attemptID := fmt.Sprintf("%d %d %s", delivery, attempt.At.UnixNano(), state)
	reply, err := d.db.Run(ctx, Steps.Delivered, append(k.Step(), k.Deliveries),
		delivery, attempt.Round, d.seals.Seal(seal.Label{ID: id, Kind: "w"}, encoded), string(state), next, logEntries, hold, attemptID)
	if err != nil {
		return fmt.Errorf("record a delivery of batch %s: %w", id, err)
	}
	return VerdictError(reply[0])
}

// Redeliver starts another delivery of the webhook, which withdraws the one before; see [batch.Store].
func (d *Deliveries) Redeliver(ctx context.Context, owner, id string) error {
	if _, err := d.batches.Get(ctx, owner, id, 0); err != nil {
		return err
	}
	if err := d.batches.Index.Reopen(ctx, id, false); err != nil {
		return err
	}
	reply, err := d.db.Run(ctx, Steps.Redeliver, []string{keys.KeysOf(id).Meta}, owner)
	if err != nil {
		return fmt.Errorf("redeliver the webhook of batch %s: %w", id, err)
	}
	switch reply[0] {
	case "no_webhook":
		return batch.ErrNoWebhook
	case "not_terminal":
		return batch.ErrNotTerminal
	case "gone":
		return batch.ErrNotFound
	}
	d.batches.Outbox.Withdraw(ctx, id, reply[2])
	d.batches.Outbox.EnqueueIf(ctx, id, reply[1])
	return nil
}
