package upload

import (
	"context"
	"fmt"
	"runtime"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/crash"
	"github.com/batchd/batchd/queue/batches"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/limits"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/seal"
)

const (
	// StagedTTL is how long an upload may be idle before its actions are gone.
	StagedTTL = 10 * time.Minute
	// MarkerTTL is how long an idle upload keeps its idempotency key busy.
	MarkerTTL = time.Minute
	// ClaimTTL is how long an idempotency key points at an upload; committing
	// extends it to the life of the batch.
	ClaimTTL = time.Hour
	// A staged chunk is bounded by both, so that no command is large.
	ChunkActions = 250
	chunkBytes   = 128 << 10
	// OwnerIndexTTL is longer than any batch lives.
	OwnerIndexTTL = 800 * 24 * time.Hour
)

// Upload implements [batch.Upload].
type Upload struct {
	s         *Uploads
	ID        string
	Keys      keys.BatchKeys
	owner     string
	Claim     string // Redis key of the idempotency key, or empty
	Replay    bool   // the key belongs to an earlier submission, id
	pending   []any  // index, sealed action, ... not staged yet
	bytes     int
	n, staged int
	staging   chan error // ends the staging of the chunk before, or nil
	groups    stagedGroups
	scratch   []byte
	MarkedAt  time.Time
	admitted  limits.Admission
	Doubtful  bool // a commit was tried: whether the batch exists is to be asked
	committed bool // for sure, or it was aborted: nothing is left to be done
}

// Open implements [batch.Store].
func (s *Uploads) Open(ctx context.Context, owner, key string) (batch.Upload, error) {
	if err := s.Memory.check(ctx); err != nil {
		return nil, err
	}
	id, err := s.NewID()
	if err != nil {
		return nil, fmt.Errorf("make a batch id: %w", err)
	}
	u := &Upload{s: s, ID: id.String(), owner: owner}
	u.Keys = keys.KeysOf(u.ID)
	if key == "" {
		return u, nil
	}
	u.Claim = keys.IdempotencyKey(owner, key)
	if err := u.claimKey(ctx); err != nil {
		s.background.Detach(u.unmark)
		return nil, err
	}
	crash.At(crash.KeyClaimed)
	return u, nil
}

// claimKey decides whose the idempotency key is. An upload may commit only
// while its marker stands, and a key is taken from another upload only once that
// one has neither a marker nor a batch, so at most one of two can commit.
func (u *Upload) claimKey(ctx context.Context) error {
	holder, err := u.markAndClaim(ctx)
	for {
		if err != nil || holder == u.ID {
			return err
		}
		var exists, busy bool
		exists, busy, err = u.s.lookUp(ctx, holder)
		switch {
		case err != nil:
			return err
		case exists:
			u.unmark(ctx)
			u.ID, u.Keys, u.Replay = holder, keys.KeysOf(holder), true
			return nil
		case busy:
			return batch.ErrKeyBusy
		}
		holder, err = u.claimFrom(ctx, holder)
	}
}

// markAndClaim marks the upload, claims the key, and returns whose it is.
func (u *Upload) markAndClaim(ctx context.Context) (holder string, err error) {
	if u.s.tasks.Shards > 1 { // servers of a cluster keep no order among them
		if err := u.mark(ctx); err != nil {
			return "", err
		}
		return u.claimFrom(ctx, "")
	}
	ctx, cancel := u.s.db.WithTimeout(ctx)
	defer cancel()
	u.MarkedAt = time.Now()
	pipe := u.s.db.Client.Pipeline()
	mark := pipe.Set(ctx, u.Keys.Upload, 1, MarkerTTL)
	claim := pipe.EvalSha(ctx, Steps.Claim.Hash(), []string{u.Claim}, u.claimArgs("")...)
	u.s.db.Send(ctx, pipe)
	if err := mark.Err(); err != nil {
		return "", rdb.MapError(ctx, err)
	}
	claim = u.s.db.AnswerOf(ctx, Steps.Claim, claim)
	return rdb.Text(claim.Val()), rdb.MapError(ctx, claim.Err())
}

// claimFrom takes the key from an upload that came to nothing, and returns whose it is.
func (u *Upload) claimFrom(ctx context.Context, seen string) (holder string, err error) {
	answer, err := u.s.db.Run(ctx, Steps.Claim, []string{u.Claim}, u.claimArgs(seen)...)
	if err != nil {
		return "", err
	}
	return answer[0], nil
}

func (u *Upload) claimArgs(seen string) []any { return []any{seen, u.ID, rdb.Millis(ClaimTTL)} }

// lookUp reports, of one moment, whether a batch exists and whether its upload is open.
func (s *Uploads) lookUp(ctx context.Context, id string) (exists, open bool, err error) {
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	k := keys.KeysOf(id)
	var meta, marker *redis.IntCmd
	_, err = s.db.Client.TxPipelined(ctx, func(p redis.Pipeliner) error {
		meta, marker = p.Exists(ctx, k.Meta), p.Exists(ctx, k.Upload)
		return nil
	})
	if err != nil {
		return false, false, rdb.MapError(ctx, err)
	}
	return meta.Val() == 1, marker.Val() == 1, nil
}

func (u *Upload) mark(ctx context.Context) error {
	ctx, cancel := u.s.db.WithTimeout(ctx)
	defer cancel()
	var err error
	if u.MarkedAt.IsZero() {
		err = u.s.db.Client.Set(ctx, u.Keys.Upload, 1, MarkerTTL).Err()
	} else { // a marker that is gone stays gone: the key may be another's
		err = u.s.db.Client.PExpire(ctx, u.Keys.Upload, MarkerTTL).Err()
	}
	u.MarkedAt = time.Now()
	return rdb.MapError(ctx, err)
}

// unmark gives the idempotency key back. A marker that is left behind keeps it
// busy, so this bears with a Redis that is away for as long as that would last.
func (u *Upload) unmark(ctx context.Context) {
	if err := u.s.db.Unlink(ctx, u.Keys.Upload); err != nil {
		u.s.log.WarnContext(ctx, "upload marker left to expire", "batch", u.ID, "error", err)
	}
}

// Add implements [batch.Upload].
func (u *Upload) Add(ctx context.Context, a *batch.Action) error {
	if u.Replay {
		u.n++
		return nil
	}
	u.scratch = batches.AppendAction(u.scratch[:0], a)
	sealed := u.s.seals.Seal(seal.Label{ID: u.ID, Kind: "a", Index: u.n}, u.scratch)
	u.pending = append(u.pending, u.n, sealed)
	u.bytes += len(sealed)
	u.groups.add(a, u.n)
	u.n++
	if u.n%8 == 0 {
		runtime.Gosched() // an upload is one long computation; others wait for moments
	}
	if err := u.keepMark(ctx); err != nil {
		return err
	}
	if len(u.pending) < 2*ChunkActions && u.bytes < chunkBytes {
		return nil
	}
	return u.Flush(batch.WithoutBudget(ctx)) // each chunk has its own
}

// keepMark renews the marker of an upload that takes its time.
func (u *Upload) keepMark(ctx context.Context) error {
	if u.MarkedAt.IsZero() || time.Since(u.MarkedAt) < MarkerTTL/4 {
		return nil
	}
	return u.mark(batch.WithBudget(ctx, u.s.db.Timeout/2))
}

// Flush has the pending actions staged, while the next ones are read. It waits for those before.
func (u *Upload) Flush(ctx context.Context) error {
	if err := u.Settle(ctx); err != nil || len(u.pending) == 0 {
		return err
	}
	u.staged += len(u.pending) / 2
	args, upTo, done := u.StageArgs(), u.staged, make(chan error, 1)
	u.pending, u.bytes, u.staging = u.pending[:0], 0, done
	ctx = context.WithoutCancel(ctx) // a commit in the meantime does not depend on the client any more
	go func() { done <- u.stage(ctx, args, upTo) }()
	return nil
}

// Settle waits for the chunk that is being staged. The wait is spent from the budget.
func (u *Upload) Settle(ctx context.Context) error {
	if u.staging == nil {
		return nil
	}
	_, end := u.s.db.WithTimeout(ctx)
	defer end()
	err := <-u.staging
	u.staging = nil
	return err
}

// stage stages a chunk, after which so many actions are.
func (u *Upload) stage(ctx context.Context, args []any, upTo int) error {
	ctx = batch.WithBudget(ctx, u.s.db.Timeout/2) // an upload has many chunks
	answer, err := u.s.db.Run(ctx, Steps.Stage, u.StageKeys(), args...)
	if err != nil {
		return fmt.Errorf("stage actions: %w", err)
	}
	if answer[0] != strconv.Itoa(upTo) {
		return batch.ErrUploadLost
	}
	crash.At(crash.ChunkStaged)
	return nil
}

func (u *Upload) StageKeys() []string { return []string{u.Keys.Actions, u.Keys.Meta} }

func (u *Upload) StageArgs() []any { return append([]any{rdb.Millis(StagedTTL)}, u.pending...) }

// Abort implements [batch.Upload].
func (u *Upload) Abort(context.Context) {
	if u.committed || u.Replay {
		return
	}
	u.committed = true
	u.s.background.Detach(u.drop)
}

// drop gives back what an upload was admitted, and removes what it has left.
func (u *Upload) drop(ctx context.Context) {
	_ = u.Settle(ctx) // what it stages is to go, too
	if u.Doubtful {
		if !u.MarkedAt.IsZero() {
			u.unmark(ctx) // what comes late is refused, and the key free for another attempt
		}
		var answer []string
		err := rdb.RetryUnavailable(ctx, func() (err error) {
			answer, err = u.s.db.Run(ctx, Steps.Drop, []string{u.Keys.Meta, u.Keys.Actions, u.Keys.Groups})
			return err
		})
		if err != nil || answer[0] == "0" {
			u.s.log.WarnContext(ctx, "a batch that was not acknowledged may run", "batch", u.ID, "error", err)
			return
		}
		u.readmit(ctx)
		return
	}
	u.readmit(ctx)
	crash.At(crash.Readmitted)
	keys := []string{u.Keys.Actions, u.Keys.Groups}
	if !u.MarkedAt.IsZero() {
		keys = append(keys, u.Keys.Upload)
	} else if u.staged == 0 && len(u.pending) == 0 {
		return
	}
	if err := u.s.db.Unlink(ctx, keys...); err != nil {
		u.s.log.WarnContext(ctx, "broken upload left to expire", "batch", u.ID, "error", err)
	}
}
