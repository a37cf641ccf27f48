// Package upload takes submissions: it stages their actions, decides which submission an idempotency key
// belongs to, asks the owner's limit, and commits. Package fanout then offers the actions to the workers.
package upload

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/crash"
	"github.com/batchd/batchd/queue/batches"
	"github.com/batchd/batchd/queue/fanout"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/limits"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/seal"
	"github.com/batchd/batchd/queue/tasks"
)

const (
	// StagedTTL is how long an upload may be idle before Redis removes its actions.
	StagedTTL = 10 * time.Minute
	// MarkerTTL is how long an idle upload keeps its idempotency key busy.
	MarkerTTL = time.Minute
	// ClaimTTL is how long an idempotency key points at an upload; committing
	// extends it to the life of the batch.
	ClaimTTL = time.Hour
	// ChunkActions and chunkBytes bound a staged chunk, so that no command is large.
	ChunkActions = 250
	chunkBytes   = 128 << 10
	// OwnerIndexTTL is longer than any batch lives.
	OwnerIndexTTL = 800 * 24 * time.Hour
)

// Uploads opens submissions. It is safe for concurrent use.
type Uploads struct {
	db         *rdb.DB
	log        *slog.Logger
	seals      *seal.Sealer
	background *rdb.Background
	tasks      *tasks.Queues
	limits     *limits.Limits
	batches    *batches.Batches
	fanout     *fanout.Fanout
	Memory     *memoryGuard

	// NewID makes the ids of batches.
	NewID func() (uuid.UUID, error)
	// Piggyback takes tasks in the exchange that commits a small batch.
	Piggyback tasks.Piggyback
}

// New returns the Uploads of a Redis.
func New(db *rdb.DB, log *slog.Logger, seals *seal.Sealer, background *rdb.Background, queues *tasks.Queues, limits *limits.Limits, all *batches.Batches, fan *fanout.Fanout) *Uploads {
	return &Uploads{
		db: db, log: log, seals: seals, background: background, tasks: queues, limits: limits, batches: all, fanout: fan,
		Memory: &memoryGuard{db: db, waiting: queues.WaitingEverywhere}, NewID: uuid.NewV7, Piggyback: tasks.NoPiggyback{},
	}
}

// Upload is a submission that is being made. It implements [batch.Upload].
type Upload struct {
	s         *Uploads
	ID        string // of the batch
	Keys      keys.BatchKeys
	owner     string
	Claim     string // the Redis key of the idempotency key, or empty
	Replay    bool   // the idempotency key belongs to an earlier submission, whose batch has the id ID
	Marker    marker
	pending   []any // index and sealed action in turn, not staged yet
	bytes     int   // of the pending actions
	n, staged int
	staging   chan error // receives the result of the chunk that is being staged; nil if there is none
	groups    stagedGroups
	scratch   []byte
	admitted  limits.Admission
	Doubtful  bool // a commit was tried, so only Redis knows whether the batch exists
	committed bool // the batch exists, or the upload was aborted: nothing is left to do
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
	u.Marker = marker{db: s.db, log: s.log, batch: u.ID, key: u.Keys.Upload}
	if key == "" {
		return u, nil
	}
	u.Claim = keys.IdempotencyKey(owner, key)
	if err := u.claimKey(ctx); err != nil {
		s.background.Detach(u.Marker.remove)
		return nil, err
	}
	crash.At(crash.KeyClaimed)
	return u, nil
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
		runtime.Gosched() // encoding a large upload would otherwise delay other goroutines
	}
	if err := u.Marker.keep(ctx); err != nil {
		return err
	}
	if len(u.pending) < 2*ChunkActions && u.bytes < chunkBytes {
		return nil
	}
	return u.Flush(batch.WithoutBudget(ctx)) // each chunk has its own
}

// Flush stages the pending actions in the background, while the caller reads the next ones. It waits for
// the chunk before.
func (u *Upload) Flush(ctx context.Context) error {
	if err := u.Settle(ctx); err != nil || len(u.pending) == 0 {
		return err
	}
	u.staged += len(u.pending) / 2
	args, upTo, done := u.StageArgs(), u.staged, make(chan error, 1)
	u.pending, u.bytes, u.staging = u.pending[:0], 0, done
	ctx = context.WithoutCancel(ctx) // the client does not have to stay connected for it
	go func() { done <- u.stage(ctx, args, upTo) }()
	return nil
}

// Settle waits for the chunk that is being staged. The wait counts towards the budget of the request.
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

// stage stages a chunk. After it, upTo actions are staged.
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

// StageKeys returns the keys of lua/stage.lua.
func (u *Upload) StageKeys() []string { return []string{u.Keys.Actions, u.Keys.Meta} }

// StageArgs returns the arguments of lua/stage.lua for the pending actions.
func (u *Upload) StageArgs() []any { return append([]any{rdb.Millis(StagedTTL)}, u.pending...) }

// Abort implements [batch.Upload].
func (u *Upload) Abort(context.Context) {
	if u.committed || u.Replay {
		return
	}
	u.committed = true
	u.s.background.Detach(u.drop)
}

// drop refunds the quota of an upload that was aborted, and removes its keys.
func (u *Upload) drop(ctx context.Context) {
	_ = u.Settle(ctx) // so that the last chunk is removed, too
	if u.Doubtful {
		if u.Marker.exists() {
			u.Marker.remove(ctx) // Redis then refuses a commit that comes late, and the idempotency key is free
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
		u.refund(ctx)
		return
	}
	u.refund(ctx)
	crash.At(crash.Readmitted)
	keys := []string{u.Keys.Actions, u.Keys.Groups}
	if u.Marker.exists() {
		keys = append(keys, u.Keys.Upload)
	} else if u.staged == 0 && len(u.pending) == 0 {
		return
	}
	if err := u.s.db.Unlink(ctx, keys...); err != nil {
		u.s.log.WarnContext(ctx, "keys of an aborted upload left to expire", "batch", u.ID, "error", err)
	}
}
