package quotas

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
)

const (
	// openEvery is how often the sweeper looks at an open batch, endedEvery at one that has ended.
	openEvery  = time.Minute
	endedEvery = 15 * time.Minute
	// refreshMost is the most batches that a refused submission has looked at. All that count as open are due
	// by then.
	refreshMost = 1000
	// sweepBatches and sweepAccounts bound what one round of the sweeper looks at.
	sweepBatches, sweepAccounts = 200, 20
)

// refresh looks at batches of an account that count as open. It reports whether that made room. An account that
// was refreshed just now is not: clients that ignore refusals cost little.
func (q *Quotas) refresh(ctx context.Context, name string) (bool, error) {
	found, _, err := q.look(ctx, name, refreshMost, lookAfter, true)
	return found.corrected, err
}

// looked is what a look found.
type looked struct {
	n         int  // the batches that were looked at
	freed     int  // those that no longer count, or not as open
	corrected bool // what the account has may have changed
}

// look looks at up to most batches of an account that are due within a time, and corrects their entries. Empty: the
// account has none.
func (q *Quotas) look(ctx context.Context, name string, most int, within time.Duration, throttle bool) (found looked, empty bool, err error) {
	account := accountKeys(name)
	flag, every := "0", openEvery
	if throttle {
		flag, every = "1", lookAfter // behind all others, so that the next look begins with those
	}
	due, err := q.db.Run(ctx, Steps.Due, account, most, rdb.Millis(within), flag)
	if err != nil {
		return found, false, fmt.Errorf("read the batches of account %s: %w", name, err)
	}
	if found.n = len(due) / 2; found.n == 0 {
		return found, due[0] == "0", nil
	}
	corrections, err := q.ask(ctx, due[1:], every)
	if err != nil || len(corrections) == 0 {
		return found, false, err
	}
	answer, err := q.db.Run(ctx, Steps.Correct, account, corrections...)
	if err != nil {
		return found, false, fmt.Errorf("correct account %s: %w", name, err)
	}
	found.freed = int(rdb.Atoi(answer[0]))
	found.corrected = true
	return found, answer[1] == "0", nil
}

// question is a batch that is asked, the time of its look, and the answers.
type question struct {
	id, look string
	meta     *redis.SliceCmd
	staged   *redis.IntCmd
}

// correction is the number of arguments of lua/correct.lua for each batch.
const correction = 7

// ask asks batches what they are. Of the batches and the times of their looks it makes the arguments of
// lua/correct.lua, and has open batches looked at again after openEvery. A batch whose server does not answer is left out: it counts as before.
func (q *Quotas) ask(ctx context.Context, due []string, openEvery time.Duration) ([]any, error) {
	ctx, cancel := q.db.WithTimeout(ctx)
	defer cancel()
	pipe := q.db.Client.Pipeline()
	var asked []question
	for i := 0; i+1 < len(due); i += 2 {
		k := keys.KeysOf(due[i])
		if q.db.IsAway(ctx, k.Meta) {
			continue
		}
		asked = append(asked, question{due[i], due[i+1], pipe.HMGet(ctx, k.Meta, "status", "stored", "gone", "room"), pipe.Exists(ctx, k.Actions)})
	}
	if len(asked) == 0 {
		return nil, nil
	}
	q.db.Send(ctx, pipe)
	var args []any
	var fault error
	for _, one := range asked {
		if err := cmp.Or(one.meta.Err(), one.staged.Err()); err != nil {
			fault = rdb.MapError(ctx, err)
			q.db.NoteAway(ctx, keys.KeysOf(one.id).Meta, fault)
			continue
		}
		m := one.meta.Val()
		status, stored, gone, room := rdb.Text(m[0]), rdb.Atoi(rdb.Text(m[1])), rdb.Text(m[2]), rdb.Atoi(rdb.Text(m[3]))
		found, every, held := "gone", openEvery, stored
		switch {
		case batch.Status(status).Terminal():
			found, every = "ended", endedEvery
		case status != "":
			found, held = "open", max(stored, room)
		case one.staged.Val() > 0:
			found = "staged"
		}
		args = append(args, one.id, one.look, found, stored, held, rdb.Atoi(gone), rdb.Millis(every))
	}
	if len(args) == 0 && fault != nil {
		return nil, fmt.Errorf("ask the batches of an account: %w", fault)
	}
	return args, nil
}

// Sweep looks at batches of accounts that are due, and corrects what processes that died, or could not reach Redis,
// left behind. One call has a constant cost. After the error of an account it goes on with the others.
func (q *Quotas) Sweep(ctx context.Context) {
	if err := q.sweep(ctx); err != nil && ctx.Err() == nil {
		q.log.WarnContext(ctx, "accounts not all looked at", "error", err)
	}
}

func (q *Quotas) sweep(ctx context.Context) error {
	answer, err := q.db.Run(ctx, Steps.Claim, []string{ListKey}, sweepAccounts, rdb.Millis(openEvery))
	if err != nil {
		return fmt.Errorf("read the accounts: %w", err)
	}
	claimed, left := answer[0], sweepBatches
	var faults []error
	for _, name := range answer[1:] {
		if left <= 0 || ctx.Err() != nil {
			break // the other accounts are looked at in a minute
		}
		key := Keys(name)[0]
		if q.db.IsAway(ctx, key) {
			continue
		}
		found, empty, err := q.look(ctx, name, left, 0, false)
		left -= found.n
		if err == nil && empty {
			err = q.unlist(ctx, name, claimed)
		}
		if err != nil {
			q.db.NoteAway(ctx, key, err)
			faults = append(faults, err)
		}
	}
	return errors.Join(faults...)
}

// unlist removes an account without entries from the list. An upload on a cluster may have entered the account
// before the sweeper claimed it, and have charged it since the look, so unlist looks once more.
func (q *Quotas) unlist(ctx context.Context, name, claimed string) error {
	if _, err := q.db.Run(ctx, Steps.Unlist, []string{ListKey}, name, claimed); err != nil {
		return fmt.Errorf("remove account %s from the list: %w", name, err)
	}
	ctx, cancel := q.db.WithTimeout(ctx)
	defer cancel()
	n, err := q.db.Client.Exists(ctx, Keys(name)[0]).Result()
	if err == nil && n > 0 {
		_, err = q.db.Run(ctx, Steps.Enlist, []string{ListKey}, name, rdb.Millis(lookAfter))
		return err
	}
	return rdb.MapError(ctx, err)
}
