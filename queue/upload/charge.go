package upload

import (
	"context"
	"errors"
	"log/slog"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/crash"
	"github.com/batchd/batchd/queue/quotas"
	"github.com/batchd/batchd/queue/rdb"
)

const (
	// batchBytes is about what Redis needs for a batch beside its actions: its keys, and its entries in lists.
	batchBytes = 3 << 10
	// actionBytes is about what Redis needs for an action beside its content: fields of hashes, its ledger entry,
	// its task, and its result beside the content of that.
	actionBytes = 512
	// reservedArg is the argument of lua/commit.lua that says when the reservation of the quotas ends.
	reservedArg = 9
)

// charging is what an upload counts for.
type charging struct {
	quotas   *quotas.Quotas
	log      *slog.Logger
	accounts []batch.Account
	stored   int64  // bytes of the actions so far
	reserved int64  // bytes, in all accounts
	any      bool   // an account may have an entry
	until    string // when the reservation ends
	// refused is set if there is no room for the batch now. The upload then stages nothing more, and only counts,
	// because a batch that is larger than a quota gets another error.
	refused *batch.QuotaError
}

// Charge implements [batch.Upload].
func (c *charging) Charge(accounts ...batch.Account) {
	c.accounts = nil
	for _, a := range accounts {
		if a.Quotas.Bounded() {
			c.accounts = append(c.accounts, a)
		}
	}
}

// chargeAhead reserves room for the actions so far before they are staged. It reserves as much again, so that a
// large upload asks the quotas a few times only. Without room for more stored bytes it sets refused.
func (c *charging) chargeAhead(ctx context.Context, id string) error {
	if len(c.accounts) == 0 || c.reserved >= c.stored+batchBytes {
		return nil
	}
	bytes := c.stored + batchBytes
	err := c.reserve(ctx, quotas.Charge{ID: id, Bytes: bytes, Ahead: bytes + c.stored, Uploaded: bytes})
	if refused, ok := errors.AsType[*batch.QuotaError](err); ok && refused.Quota == batch.QuotaStoredBytes && refused.RetryAfter > 0 {
		c.refused = refused
		return nil
	}
	return err
}

// count counts an action of an upload that is refused already. It returns an error once the batch is larger than a
// quota.
func (c *charging) count(bytes int) error {
	c.stored += int64(bytes) + actionBytes
	return c.neverFits(c.stored + batchBytes)
}

// neverFits returns an error if a batch is larger than a quota, whatever else the accounts have.
func (c *charging) neverFits(bytes int64) error {
	for i := range c.accounts {
		a := &c.accounts[i]
		switch {
		case a.Quotas.StoredBytes > 0 && bytes > a.Quotas.StoredBytes:
			return &batch.QuotaError{Kind: a.Kind, Quota: batch.QuotaStoredBytes, Value: a.Quotas.StoredBytes, Needs: bytes}
		case a.Quotas.UploadRate > 0 && bytes > a.Quotas.Burst():
			return &batch.QuotaError{Kind: a.Kind, Quota: batch.QuotaUploadRate, Value: a.Quotas.Burst(), Needs: bytes}
		}
	}
	return nil
}

// chargeAll reserves what the batch of n actions stores, and room for results while the quota has much. It adds that
// and the end of the reservation to the arguments of lua/commit.lua.
func (c *charging) chargeAll(ctx context.Context, id string, n int, args []any) ([]any, error) {
	bytes := c.stored + batchBytes
	for _, arg := range args {
		switch v := arg.(type) {
		case string:
			bytes += int64(len(v))
		case []byte:
			bytes += int64(len(v))
		}
	}
	args = append(args, "stored", bytes)
	if len(c.accounts) == 0 {
		return args, nil
	}
	if c.refused != nil {
		if err := c.neverFits(bytes); err != nil {
			return nil, err
		}
		c.refused.Needs = bytes
		return nil, c.refused
	}
	bounds := quotas.Bounds(c.accounts)
	charge := quotas.Charge{ID: id, Bytes: bytes, Ahead: bytes, Uploaded: bytes}
	if bounds != "" {
		charge.Ahead, charge.FirstHalf = bytes+quotas.RoomFor(n), true
	}
	if err := c.reserve(ctx, charge); err != nil {
		return nil, err
	}
	crash.At(crash.Charged)
	args[reservedArg] = c.until
	if bounds != "" {
		args = append(args, "room", c.reserved, "bounds", bounds)
	}
	for _, a := range c.accounts {
		if a.Kind == batch.AddressAccount {
			args = append(args, "payer", a.Name)
		}
	}
	return args, nil
}

// reserve counts the upload for its accounts, one after the other: an account that refuses it keeps it from those
// behind it.
func (c *charging) reserve(ctx context.Context, charge quotas.Charge) error {
	if err := c.neverFits(charge.Bytes); err != nil {
		return err
	}
	c.any = true
	for i := range c.accounts {
		reserved, until, err := c.quotas.Reserve(ctx, &c.accounts[i], charge)
		if err != nil {
			return err
		}
		if i == 0 || reserved < c.reserved {
			c.reserved = reserved
		}
		if i == 0 || rdb.Atoi(until) < rdb.Atoi(c.until) {
			c.until = until
		}
	}
	return nil
}

// release gives the quotas of an upload back that does not become a batch. The bytes that were uploaded still count
// for the rate.
func (c *charging) release(ctx context.Context, id string) {
	if !c.any {
		return
	}
	err := rdb.RetryUnavailable(ctx, func() error { return c.quotas.Release(ctx, id, c.accounts...) })
	if err != nil {
		c.log.WarnContext(ctx, "quota of an aborted upload not released, the sweeper will do it", "batch", id, "error", err)
	}
}
