package queue

import (
	"context"
	"fmt"
	"runtime"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/crash"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/seal"
)

const (
	// stagedTTL is how long an upload may be idle before its actions are gone.
	stagedTTL = 10 * time.Minute
	// markerTTL is how long an idle upload keeps its idempotency key busy.
	markerTTL = time.Minute
	// claimTTL is how long an idempotency key points at an upload; committing
	// extends it to the life of the batch.
	claimTTL = time.Hour
	// A staged chunk is bounded by both, so that no command is large.
	chunkActions = 250
	chunkBytes   = 128 << 10
	// ownerIndexTTL is longer than any batch lives.
	ownerIndexTTL = 800 * 24 * time.Hour
)

// upload implements [batch.Upload].
type upload struct {
	s         *Store
	id        string
	keys      batchKeys
	owner     string
	claim     string // Redis key of the idempotency key, or empty
	replay    bool   // the key belongs to an earlier submission, id
	pending   []any  // index, sealed action, ... not staged yet
	bytes     int
	n, staged int
	staging   chan error // ends the staging of the chunk before, or nil
	groups    stagedGroups
	scratch   []byte
	markedAt  time.Time
	admitted  admission
	doubtful  bool // a commit was tried: whether the batch exists is to be asked
	committed bool // for sure, or it was aborted: nothing is left to be done
}

// Open implements [batch.Store].
func (s *Store) Open(ctx context.Context, owner, key string) (batch.Upload, error) {
	if err := s.memory.check(ctx); err != nil {
		return nil, err
	}
	id, err := s.newID()
	if err != nil {
		return nil, fmt.Errorf("make a batch id: %w", err)
	}
	u := &upload{s: s, id: id.String(), owner: owner}
	u.keys = keysOf(u.id)
	if key == "" {
		return u, nil
	}
	u.claim = idempotencyKey(owner, key)
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
func (u *upload) claimKey(ctx context.Context) error {
	holder, err := u.markAndClaim(ctx)
	for {
		if err != nil || holder == u.id {
			return err
		}
		var exists, busy bool
		exists, busy, err = u.s.lookUp(ctx, holder)
		switch {
		case err != nil:
			return err
		case exists:
			u.unmark(ctx)
			u.id, u.keys, u.replay = holder, keysOf(holder), true
			return nil
		case busy:
			return batch.ErrKeyBusy
		}
		holder, err = u.claimFrom(ctx, holder)
	}
}

// markAndClaim marks the upload, claims the key, and returns whose it is.
func (u *upload) markAndClaim(ctx context.Context) (holder string, err error) {
	if u.s.shards > 1 { // servers of a cluster keep no order among them
		if err := u.mark(ctx); err != nil {
			return "", err
		}
		return u.claimFrom(ctx, "")
	}
	ctx, cancel := u.s.db.WithTimeout(ctx)
	defer cancel()
	u.markedAt = time.Now()
	pipe := u.s.db.Client.Pipeline()
	mark := pipe.Set(ctx, u.keys.upload, 1, markerTTL)
	claim := pipe.EvalSha(ctx, u.s.steps.claim.Hash(), []string{u.claim}, u.claimArgs("")...)
	u.s.db.Send(ctx, pipe)
	if err := mark.Err(); err != nil {
		return "", rdb.MapError(ctx, err)
	}
	claim = u.s.db.AnswerOf(ctx, u.s.steps.claim, claim)
	return rdb.Text(claim.Val()), rdb.MapError(ctx, claim.Err())
}

// claimFrom takes the key from an upload that came to nothing, and returns whose it is.
func (u *upload) claimFrom(ctx context.Context, seen string) (holder string, err error) {
	answer, err := u.s.db.Run(ctx, u.s.steps.claim, []string{u.claim}, u.claimArgs(seen)...)
	if err != nil {
		return "", err
	}
	return answer[0], nil
}

func (u *upload) claimArgs(seen string) []any { return []any{seen, u.id, rdb.Millis(claimTTL)} }

// lookUp reports, of one moment, whether a batch exists and whether its upload is open.
func (s *Store) lookUp(ctx context.Context, id string) (exists, open bool, err error) {
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	k := keysOf(id)
	var meta, marker *redis.IntCmd
	_, err = s.db.Client.TxPipelined(ctx, func(p redis.Pipeliner) error {
		meta, marker = p.Exists(ctx, k.meta), p.Exists(ctx, k.upload)
		return nil
	})
	if err != nil {
		return false, false, rdb.MapError(ctx, err)
	}
	return meta.Val() == 1, marker.Val() == 1, nil
}

func (u *upload) mark(ctx context.Context) error {
	ctx, cancel := u.s.db.WithTimeout(ctx)
	defer cancel()
	var err error
	if u.markedAt.IsZero() {
		err = u.s.db.Client.Set(ctx, u.keys.upload, 1, markerTTL).Err()
	} else { // a marker that is gone stays gone: the key may be another's
		err = u.s.db.Client.PExpire(ctx, u.keys.upload, markerTTL).Err()
	}
	u.markedAt = time.Now()
	return rdb.MapError(ctx, err)
}

// unmark gives the idempotency key back. A marker that is left behind keeps it
// busy, so this bears with a Redis that is away for as long as that would last.
func (u *upload) unmark(ctx context.Context) {
	if err := u.s.db.Unlink(ctx, u.keys.upload); err != nil {
		u.s.log.WarnContext(ctx, "upload marker left to expire", "batch", u.id, "error", err)
	}
}

// Add implements [batch.Upload].
func (u *upload) Add(ctx context.Context, a *batch.Action) error {
	if u.replay {
		u.n++
		return nil
	}
	u.scratch = appendAction(u.scratch[:0], a)
	sealed := u.s.seals.Seal(seal.Label{ID: u.id, Kind: "a", Index: u.n}, u.scratch)
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
	if len(u.pending) < 2*chunkActions && u.bytes < chunkBytes {
		return nil
	}
	return u.flush(batch.WithoutBudget(ctx)) // each chunk has its own
}

// keepMark renews the marker of an upload that takes its time.
func (u *upload) keepMark(ctx context.Context) error {
	if u.markedAt.IsZero() || time.Since(u.markedAt) < markerTTL/4 {
		return nil
	}
	return u.mark(batch.WithBudget(ctx, u.s.db.Timeout/2))
}

// flush has the pending actions staged, while the next ones are read. It waits for those before.
func (u *upload) flush(ctx context.Context) error {
	if err := u.settle(ctx); err != nil || len(u.pending) == 0 {
		return err
	}
	u.staged += len(u.pending) / 2
	args, upTo, done := u.stageArgs(), u.staged, make(chan error, 1)
	u.pending, u.bytes, u.staging = u.pending[:0], 0, done
	ctx = context.WithoutCancel(ctx) // a commit in the meantime does not depend on the client any more
	go func() { done <- u.stage(ctx, args, upTo) }()
	return nil
}

// settle waits for the chunk that is being staged. The wait is spent from the budget.
func (u *upload) settle(ctx context.Context) error {
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
func (u *upload) stage(ctx context.Context, args []any, upTo int) error {
	ctx = batch.WithBudget(ctx, u.s.db.Timeout/2) // an upload has many chunks
	answer, err := u.s.db.Run(ctx, u.s.steps.stage, u.stageKeys(), args...)
	if err != nil {
		return fmt.Errorf("stage actions: %w", err)
	}
	if answer[0] != strconv.Itoa(upTo) {
		return batch.ErrUploadLost
	}
	crash.At(crash.ChunkStaged)
	return nil
}

func (u *upload) stageKeys() []string { return []string{u.keys.actions, u.keys.meta} }

func (u *upload) stageArgs() []any { return append([]any{rdb.Millis(stagedTTL)}, u.pending...) }

// Abort implements [batch.Upload].
func (u *upload) Abort(context.Context) {
	if u.committed || u.replay {
		return
	}
	u.committed = true
	u.s.background.Detach(u.drop)
}

// drop gives back what an upload was admitted, and removes what it has left.
func (u *upload) drop(ctx context.Context) {
	_ = u.settle(ctx) // what it stages is to go, too
	if u.doubtful {
		if !u.markedAt.IsZero() {
			u.unmark(ctx) // what comes late is refused, and the key free for another attempt
		}
		var answer []string
		err := rdb.RetryUnavailable(ctx, func() (err error) {
			answer, err = u.s.db.Run(ctx, u.s.steps.drop, []string{u.keys.meta, u.keys.actions, u.keys.groups})
			return err
		})
		if err != nil || answer[0] == "0" {
			u.s.log.WarnContext(ctx, "a batch that was not acknowledged may run", "batch", u.id, "error", err)
			return
		}
		u.readmit(ctx)
		return
	}
	u.readmit(ctx)
	crash.At(crash.Readmitted)
	keys := []string{u.keys.actions, u.keys.groups}
	if !u.markedAt.IsZero() {
		keys = append(keys, u.keys.upload)
	} else if u.staged == 0 && len(u.pending) == 0 {
		return
	}
	if err := u.s.db.Unlink(ctx, keys...); err != nil {
		u.s.log.WarnContext(ctx, "broken upload left to expire", "batch", u.id, "error", err)
	}
}
