package batches

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/seal"
)

const (
	// logEntries is the most attempts that a delivery log keeps.
	logEntries = 50
	// noticeResults is the largest batch whose results go along with its webhook.
	noticeResults = 100
)

// Log implements [batch.Store].
func (s *Deliveries) Log(ctx context.Context, owner, id string) (*batch.DeliveryLog, error) {
	if !keys.IsBatchID(id) {
		return nil, batch.ErrNotFound
	}
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	k := keys.KeysOf(id)
	var meta *redis.MapStringStringCmd
	var stored *redis.StringSliceCmd
	// Of one moment, so that the states are what the attempts led to.
	if _, err := s.db.Client.TxPipelined(ctx, func(p redis.Pipeliner) error {
		meta, stored = p.HGetAll(ctx, k.Meta), p.LRange(ctx, k.Deliveries, 0, -1)
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

func (s *Deliveries) deliveryLog(id string, m map[string]string, stored []string) (*batch.DeliveryLog, error) {
	round := RoundOf(m)
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

// Notice implements [batch.Ledger]. Nothing of a batch changes between its end and a
// retry, which withdraws the delivery, so what is read while the delivery counts is the
// batch as it ended, and is the same each time.
func (s *Deliveries) Notice(ctx context.Context, id string, delivery int) (*batch.Notice, error) {
	seen, err := s.batches.readHead(ctx, id, noticeResults)
	if err != nil {
		return nil, err
	}
	m := seen.meta
	if err := stillDue(m["sending"], m["delivery"], delivery); err != nil {
		return nil, err
	}
	b, err := s.batches.batchOf(ctx, id, seen)
	if err != nil {
		return nil, err
	}
	n := &batch.Notice{Batch: b, Round: RoundOf(m), MessageID: messageID(id, RoundOf(m))}
	if b.Counts.Total > noticeResults {
		return n, nil
	}
	page := b.First
	if page == nil || page.Next >= 0 {
		if page, err = s.batches.Results(ctx, b.Owner, id, batch.ResultQuery{Limit: noticeResults}); err != nil {
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
func (s *Deliveries) checkDue(ctx context.Context, id string, delivery int) error {
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	fields, err := s.db.Client.HMGet(ctx, keys.KeysOf(id).Meta, "sending", "delivery").Result()
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

// Record implements [batch.Ledger]. Repeating it logs an attempt once.
func (s *Deliveries) Record(ctx context.Context, id string, delivery int, d batch.Delivery, state batch.DeliveryState, nextAt time.Time) error {
	encoded, err := json.Marshal(d)
	if err != nil {
		return fmt.Errorf("encode a delivery: %w", err)
	}
	k := keys.KeysOf(id)
	next, hold := "", int64(0)
	if !nextAt.IsZero() {
		next = strconv.FormatInt(nextAt.UnixMilli(), 10)
		hold = rdb.Millis(time.Until(nextAt) + deliveryGrace)
	}
	// What is sealed differs each time, so a repetition is recognised by this.
	attempt := fmt.Sprintf("%d %d %s", delivery, d.At.UnixNano(), state)
	answer, err := s.db.Run(ctx, Steps.Delivered, append(k.Step(), k.Deliveries),
		delivery, d.Round, s.seals.Seal(seal.Label{ID: id, Kind: "w"}, encoded), string(state), next, logEntries, hold, attempt)
	if err != nil {
		return fmt.Errorf("note a delivery of batch %s: %w", id, err)
	}
	return VerdictError(answer[0])
}
