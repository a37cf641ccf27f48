// Package quotas counts what owners and addresses have: open batches, stored bytes, and the rate of uploads.
//
// Each batch has an entry in each account that it counts for, so counting or releasing it again changes nothing. An
// upload reserves before it stages, and a commit needs a reservation that is still valid. So no batch exists that
// was not counted. The other way round, an account may have entries of batches that have ended or do not exist,
// because no process has told it so: before a quota refuses a submission, and from time to time by the sweeper, the
// batches themselves are asked.
package quotas

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/rdb"
)

const (
	// defaultLease is the default of [Quotas.Lease].
	defaultLease = 30 * time.Second
	// lookAfter is when a reservation is looked at. It is longer than the lease by more than the clocks of a
	// cluster's servers differ.
	lookAfter = 90 * time.Second
	// retryAfter is when a batch is looked at whose retry has reserved it. A retry takes less time.
	retryAfter = 30 * time.Second
	// ListKey is the list of accounts that the sweeper looks at.
	ListKey = "batchd:quotas"
)

// Quotas are the accounts in a Redis. They are safe for concurrent use.
type Quotas struct {
	db  *rdb.DB
	log *slog.Logger

	// Lease is how long a reservation is valid: until then, the upload may commit. Only tests change it.
	Lease time.Duration

	configured configured
	reclaiming [reclaimers]chan struct{} // held while the process reclaims room of an account
}

// New returns the accounts in a Redis.
func New(db *rdb.DB, log *slog.Logger) *Quotas {
	q := &Quotas{db: db, log: log, Lease: defaultLease}
	for i := range q.reclaiming {
		q.reclaiming[i] = make(chan struct{}, 1)
	}
	return q
}

// nameOf returns the name of an account among those of all kinds.
func nameOf(a *batch.Account) string { return string(a.Kind) + ":" + a.Name }

// Keys returns the keys of an account with that name, all in one slot: the entries of its batches, when each is
// looked at next, the sums, the bytes that batches may spare, and the rate of uploads. See lua/account.lua.
func Keys(name string) []string {
	prefix := "batchd:quota:{" + name + "}:"
	return []string{prefix + "held", prefix + "look", prefix + "sum", prefix + "spare", prefix + "rate"}
}

// accountKeys returns those of the keys that lua/account.lua needs.
func accountKeys(name string) []string { return Keys(name)[:4] }

// Charge is what a batch counts for.
type Charge struct {
	// ID is the id of the batch.
	ID string
	// Bytes is what the batch stores, and Ahead what to reserve if there is room, to charge less often.
	Bytes, Ahead int64
	// Uploaded are the bytes that count for the rate of uploads, all of the batch.
	Uploaded int64
	// FirstHalf reserves ahead only while less than half of the quota is in use.
	FirstHalf bool

	retry, grow, check bool
}

// Reserve counts a batch for an account, or changes what the batch counts for. It returns how many bytes are
// reserved, and when the reservation ends, by the clock of Redis. It returns a [batch.QuotaError] if a quota has no
// room. Before that, it takes room from batches that do not use it, and asks the batches of the account which of them
// still count.
func (q *Quotas) Reserve(ctx context.Context, a *batch.Account, c Charge) (reserved int64, until string, err error) {
	answer, err := q.chargeOrReclaim(ctx, a, c)
	if err == nil && answer[0] != "ok" && answer[0] != batch.QuotaUploadRate {
		var freed bool
		if freed, err = q.refresh(ctx, nameOf(a)); err == nil && freed {
			answer, err = q.chargeOrReclaim(ctx, a, c)
		}
	}
	if err != nil {
		return 0, "", fmt.Errorf("ask the quotas: %w", err)
	}
	if answer[0] != "ok" {
		return 0, "", refusal(a, c, answer)
	}
	return rdb.Atoi(answer[1]), answer[2], nil
}

// ReserveAll counts a batch for accounts, as Reserve does for one. It returns the least that is reserved in any, and
// when the first reservation ends. If one account refuses, none has counted it, unless another process uses the last
// room meanwhile.
func (q *Quotas) ReserveAll(ctx context.Context, accounts []batch.Account, c Charge) (reserved int64, until string, err error) {
	for i := 1; i < len(accounts); i++ {
		asked := c
		asked.check = true
		if _, _, err := q.Reserve(ctx, &accounts[i], asked); err != nil {
			return 0, "", err
		}
	}
	for i := range accounts {
		one, end, err := q.Reserve(ctx, &accounts[i], c)
		if err != nil {
			return 0, "", err
		}
		if i == 0 || one < reserved {
			reserved = one
		}
		if i == 0 || rdb.Atoi(end) < rdb.Atoi(until) {
			until = end
		}
		c.Ahead = min(c.Ahead, one) // more would be of no use
	}
	return reserved, until, nil
}

// Reopen counts a batch as open again that has ended, stores bytes, and needs room for the results of n actions. It
// returns how many bytes are reserved, and a [batch.QuotaError] if a quota has no room.
func (q *Quotas) Reopen(ctx context.Context, accounts []batch.Account, id string, stored int64, n int) (room int64, err error) {
	open := slices.Clone(accounts)
	for i := range open {
		open[i].Quotas.UploadRate = 0
	}
	c := Charge{ID: id, Bytes: stored + int64(n)*SmallResult, FirstHalf: true, retry: true}
	if n > 0 {
		c.Ahead = c.Bytes + RoomFor(n)
	}
	room, _, err = q.ReserveAll(ctx, open, c)
	return room, err
}

// charge runs lua/charge.lua. The list has the account before the account has an entry.
func (q *Quotas) charge(ctx context.Context, a *batch.Account, c Charge) ([]string, error) {
	ctx, cancel := q.db.WithTimeout(ctx)
	defer cancel()
	name, most := nameOf(a), &a.Quotas
	check := ""
	if c.check {
		check = "1"
	}
	state, look, share := "r", lookAfter, "all"
	if c.FirstHalf {
		share = "half"
	}
	switch {
	case c.retry:
		state, look = "t", retryAfter
	case c.grow:
		state, share = "g", "quarter"
	}
	pipe := q.db.Client.Pipeline()
	enlist := pipe.EvalSha(ctx, Steps.Enlist.Hash(), []string{ListKey}, name, rdb.Millis(lookAfter))
	charge := pipe.EvalSha(ctx, Steps.Charge.Hash(), Keys(name), c.ID, c.Bytes, c.Ahead, c.Uploaded,
		most.OpenBatches, most.StoredBytes, most.UploadRate, most.Burst(), rdb.Millis(q.Lease), rdb.Millis(look), state, share, check)
	q.db.Send(ctx, pipe)
	// A batch that needs more room is in its account already, which is in the list.
	if err := q.db.AnswerOf(ctx, Steps.Enlist, enlist).Err(); err != nil && !c.grow {
		return nil, rdb.MapError(ctx, err)
	}
	found, err := q.db.AnswerOf(ctx, Steps.Charge, charge).Slice()
	if err == nil && len(found) < 3 {
		err = rdb.ErrAnswer
	}
	if err != nil {
		return nil, rdb.MapError(ctx, err)
	}
	return rdb.Texts(found), nil
}

const (
	// retryOpen and retryStored are when to try again if it is not known when there will be room.
	retryOpen   = 2 * time.Second
	retryStored = 30 * time.Second
)

// refusal returns the error for an answer of lua/charge.lua.
func refusal(a *batch.Account, c Charge, answer []string) error {
	e := &batch.QuotaError{Kind: a.Kind, Quota: answer[0], Used: rdb.Atoi(answer[1]), RetryAfter: time.Duration(rdb.Atoi(answer[2])) * time.Millisecond}
	switch e.Quota {
	case batch.QuotaOpenBatches:
		e.Value, e.Needs, e.RetryAfter = int64(a.Quotas.OpenBatches), 1, retryOpen
	case batch.QuotaStoredBytes:
		e.Value, e.Needs = a.Quotas.StoredBytes, c.Bytes
		if e.RetryAfter < 0 {
			e.RetryAfter = retryStored
		}
	default:
		e.Value, e.Needs = a.Quotas.UploadRate, c.Uploaded
		if e.RetryAfter == 0 {
			e.Value = a.Quotas.Burst()
		}
	}
	return e
}

// Release removes a batch from accounts, which must be of the kinds owner and address.
func (q *Quotas) Release(ctx context.Context, id string, accounts ...batch.Account) error {
	for i := range accounts {
		if accounts[i].Name == "" {
			continue
		}
		if _, err := q.db.Run(ctx, Steps.Release, accountKeys(nameOf(&accounts[i])), id); err != nil {
			return fmt.Errorf("release the quota of batch %s: %w", id, err)
		}
	}
	return nil
}

// Use is what an account has.
type Use struct{ OpenBatches, StoredBytes int64 }

// Use returns what an account has, as far as it knows.
func (q *Quotas) Use(ctx context.Context, a batch.Account) (Use, error) {
	ctx, cancel := q.db.WithTimeout(ctx)
	defer cancel()
	sums, err := q.db.Client.HGetAll(ctx, Keys(nameOf(&a))[2]).Result()
	return Use{rdb.Atoi(sums["open"]), rdb.Atoi(sums["bytes"])}, rdb.MapError(ctx, err)
}
