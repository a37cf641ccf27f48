package quotas

import (
	"context"
	"fmt"
	"hash/maphash"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
)

const (
	// reclaimLeast and reclaimMost bound the batches from which one exchange takes room, and reclaimRounds the
	// exchanges of one charge.
	reclaimLeast, reclaimMost, reclaimRounds = 25, 250, 40
	// handOver is how long a worker may need to give a batch the room that it has reserved. Until then no process
	// reclaims it, so that workers do not take it from each other all the time.
	handOver = 2 * time.Second
	// reclaimers is the number of accounts for which a process reclaims room at one time.
	reclaimers = 16
)

var reclaimSeed = maphash.MakeSeed()

// chargeOrReclaim charges an account. If the quota of stored bytes refuses that, but batches may have enough to spare,
// chargeOrReclaim takes unused room from them and charges again. One goroutine of a process does it for an account.
func (q *Quotas) chargeOrReclaim(ctx context.Context, a *batch.Account, c Charge) ([]string, error) {
	answer, err := q.charge(ctx, a, c)
	if err != nil || missing(answer, a, c) == 0 {
		return answer, err
	}
	name := nameOf(a)
	turn := q.reclaiming[maphash.String(reclaimSeed, name)%reclaimers]
	again := false
	select {
	case turn <- struct{}{}:
	default:
		again = true // another goroutine may make room
		select {
		case turn <- struct{}{}:
		case <-ctx.Done():
			return nil, rdb.MapError(ctx, ctx.Err())
		}
	}
	defer func() { <-turn }()
	skip := 0
	for range reclaimRounds {
		if again {
			if answer, err = q.charge(ctx, a, c); err != nil {
				return nil, err
			}
		}
		bytes := missing(answer, a, c)
		if bytes == 0 {
			return answer, nil
		}
		found, kept, err := q.reclaim(ctx, name, c.ID, bytes, skip)
		if err != nil {
			return nil, err
		}
		if found == 0 {
			return answer, nil
		}
		skip += kept
		again = true
	}
	return answer, nil
}

// missing returns how many bytes other batches of the account must give up for a charge. It returns 0 if an answer of
// lua/charge.lua is no refusal that this can prevent.
func missing(answer []string, a *batch.Account, c Charge) int64 {
	if answer[0] != batch.QuotaStoredBytes || answer[2] == "0" || len(answer) != 4 {
		return 0
	}
	bytes := rdb.Atoi(answer[1]) + c.Bytes - a.Quotas.StoredBytes
	if rdb.Atoi(answer[3]) < bytes {
		return 0
	}
	return bytes
}

// reclaim takes unused room from batches of an account until as many bytes may be free. It leaves out
// those with the most. It returns the number of batches that it found, and of those that keep what they have.
func (q *Quotas) reclaim(ctx context.Context, name, asks string, bytes int64, skip int) (found, kept int, err error) {
	account := accountKeys(name)
	spare, err := q.db.Run(ctx, Steps.Spare, account, asks, bytes, skip, reclaimLeast, reclaimMost, rdb.Millis(lookAfter-handOver))
	if err != nil {
		return 0, 0, fmt.Errorf("read the spare bytes of account %s: %w", name, err)
	}
	corrections, err := q.lower(ctx, spare)
	if err != nil {
		return 0, 0, fmt.Errorf("take room from batches of account %s: %w", name, err)
	}
	found = len(spare) / 3
	kept = found - len(corrections)/correction
	if len(corrections) == 0 {
		return found, kept, nil
	}
	if _, err := q.db.Run(ctx, Steps.Correct, account, corrections...); err != nil {
		return 0, 0, fmt.Errorf("correct account %s: %w", name, err)
	}
	return found, kept, nil
}

// lower runs lua/lower.lua on batches that lua/spare.lua returned. It returns the arguments of lua/correct.lua. A batch
// whose server does not answer is left out.
func (q *Quotas) lower(ctx context.Context, spare []string) ([]any, error) {
	ctx, cancel := q.db.WithTimeout(ctx)
	defer cancel()
	type lowered struct {
		id, look string
		answer   *redis.Cmd
	}
	pipe := q.db.Client.Pipeline()
	var all []lowered
	for i := 0; i+2 < len(spare); i += 3 {
		meta := keys.KeysOf(spare[i]).Meta
		if !q.db.IsAway(ctx, meta) {
			all = append(all, lowered{spare[i], spare[i+1], pipe.EvalSha(ctx, Steps.Lower.Hash(), []string{meta}, spare[i+2])})
		}
	}
	if len(all) == 0 {
		return nil, nil
	}
	q.db.Send(ctx, pipe)
	var corrections []any
	for _, one := range all {
		answer, err := q.db.AnswerOf(ctx, Steps.Lower, one.answer).Slice()
		if err != nil {
			err = rdb.MapError(ctx, err)
			q.db.NoteAway(ctx, keys.KeysOf(one.id).Meta, err)
			if len(corrections) == 0 {
				return nil, err
			}
			continue
		}
		texts := rdb.Texts(answer)
		switch {
		case texts[0] == "lowered" && len(texts) == 2:
			corrections = append(corrections, one.id, one.look, texts[0], texts[1], texts[1], 0, rdb.Millis(openEvery))
		case texts[0] == "ended" && len(texts) == 3:
			corrections = append(corrections, one.id, one.look, texts[0], texts[1], texts[1], texts[2], rdb.Millis(endedEvery))
		}
	}
	return corrections, nil
}
