// Package upload takes submissions: it stages their actions, decides which submission an idempotency key
// belongs to, asks the owner's limit, and commits. Package fanout then offers the actions to the workers.
package upload

import (
	"context"
	"encoding/hex"
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
	// stagedTTL is how long an upload may be idle before Redis removes its actions.
	stagedTTL = 10 * time.Minute
	// markerTTL is how long an idle upload keeps its idempotency key busy.
	markerTTL = time.Minute
	// claimTTL is how long an idempotency key points at an upload; committing
	// extends it to the life of the batch.
	claimTTL = time.Hour
	// chunkActions and chunkBytes bound a staged chunk, so that no command is large.
	chunkActions = 250
	chunkBytes   = 128 << 10
	// hashSize is the size in bytes of the keyed hashes that a batch keeps.
	hashSize = 16
	// listTTL is longer than any batch lives.
	listTTL = 800 * 24 * time.Hour
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
	memory     *memoryGuard

	// NewID makes the ids of batches.
	NewID func() (uuid.UUID, error)
	// Piggyback takes tasks in the exchange that commits a small batch.
	Piggyback tasks.Piggyback
}

// New returns the Uploads of a Redis.
func New(db *rdb.DB, log *slog.Logger, seals *seal.Sealer, background *rdb.Background, queues *tasks.Queues, limits *limits.Limits, all *batches.Batches, fan *fanout.Fanout) *Uploads {
	return &Uploads{
		db: db, log: log, seals: seals, background: background, tasks: queues, limits: limits, batches: all, fanout: fan,
		memory: &memoryGuard{db: db, waiting: queues.WaitingEverywhere}, NewID: uuid.NewV7, Piggyback: tasks.NoPiggyback{},
	}
}

// upload is a submission that is being made. It implements [batch.Upload].
type upload struct {
	charging

	s         *Uploads
	id        string // of the batch
	keys      keys.BatchKeys
	owner     string
	claim     string // the Redis key of the idempotency key, or empty
	claimHash string // by which the batch knows its idempotency key
	replay    bool   // the idempotency key belongs to an earlier submission, and id is the id of its batch
	marker    marker
	pending   []any // index and sealed action in turn, not staged yet
	bytes     int   // of the pending actions
	n, staged int
	staging   chan error // receives the result of the chunk that is being staged; nil if there is none
	groups    stagedGroups
	scratch   []byte
	admitted  []limits.Admission
	doubtful  bool // a commit was tried, so only Redis knows whether the batch exists
	committed bool // the batch exists, or the upload was aborted: nothing is left to do
}

// Open implements [batch.Store].
func (s *Uploads) Open(ctx context.Context, owner, key string) (batch.Upload, error) {
	if err := s.memory.check(ctx); err != nil {
		return nil, err
	}
	id, err := s.NewID()
	if err != nil {
		return nil, fmt.Errorf("make a batch id: %w", err)
	}
	u := &upload{s: s, id: id.String(), owner: owner, charging: charging{quotas: s.batches.Quotas, log: s.log}}
	u.keys = keys.KeysOf(u.id)
	u.marker = marker{db: s.db, log: s.log, batch: u.id, key: u.keys.Upload}
	if key == "" {
		return u, nil
	}
	hash, err := s.batches.Owners.Hash(ctx, "idempotency key", []byte(owner), []byte(key))
	if err != nil {
		return nil, err
	}
	u.claim, u.claimHash = keys.IdempotencyKey(hash), hex.EncodeToString(hash[:hashSize])
	if err := u.claimKey(ctx); err != nil {
		s.background.Detach(u.marker.remove)
		return nil, err
	}
	crash.At(crash.KeyClaimed)
	return u, nil
}

// Add implements [batch.Upload].
func (u *upload) Add(ctx context.Context, a *batch.Action) error {
	if u.replay {
		u.n++
		return nil
	}
	u.scratch = batches.AppendAction(u.scratch[:0], a)
	if u.refused != nil {
		u.n++
		return u.count(len(u.scratch))
	}
	sealed := u.s.seals.Seal(seal.Label{ID: u.id, Kind: "a", Index: u.n}, u.scratch)
	u.pending = append(u.pending, u.n, sealed)
	u.bytes += len(sealed)
	u.stored += int64(len(sealed)) + actionBytes
	u.groups.add(a, u.n)
	u.n++
	if u.n%8 == 0 {
		runtime.Gosched() // encoding a large upload would otherwise delay other goroutines
	}
	if err := u.marker.keep(ctx); err != nil {
		return err
	}
	if len(u.pending) < 2*chunkActions && u.bytes < chunkBytes {
		return nil
	}
	ctx = batch.WithoutBudget(ctx) // each chunk has its own
	if err := u.s.memory.check(ctx); err != nil {
		return err // the upload itself may have filled Redis
	}
	return u.flush(ctx)
}

// flush stages the pending actions in the background, while the caller reads the next ones. It waits for
// the chunk before.
func (u *upload) flush(ctx context.Context) error {
	if err := u.settle(ctx); err != nil || len(u.pending) == 0 {
		return err
	}
	if err := u.chargeAhead(ctx, u.id); err != nil {
		return err
	}
	if u.refused != nil {
		u.pending, u.bytes = u.pending[:0], 0
		return nil //nolint:nilerr // the upload counts on, and the commit answers with it
	}
	u.staged += len(u.pending) / 2
	args, upTo, done := u.stageArgs(), u.staged, make(chan error, 1)
	u.pending, u.bytes, u.staging = u.pending[:0], 0, done
	ctx = context.WithoutCancel(ctx) // the client does not have to stay connected for it
	go func() { done <- u.stage(ctx, args, upTo) }()
	return nil
}

// settle waits for the chunk that is being staged. The wait counts towards the budget of the request.
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

// stage stages a chunk. After it, upTo actions are staged.
func (u *upload) stage(ctx context.Context, args []any, upTo int) error {
	ctx = batch.WithBudget(ctx, u.s.db.Timeout/2) // an upload has many chunks
	answer, err := u.s.db.Run(ctx, Steps.Stage, u.stageKeys(), args...)
	if err != nil {
		return fmt.Errorf("stage actions: %w", err)
	}
	if answer[0] != strconv.Itoa(upTo) {
		return batch.ErrUploadLost
	}
	crash.At(crash.ChunkStaged)
	return nil
}

// stageKeys returns the keys of lua/stage.lua.
func (u *upload) stageKeys() []string { return []string{u.keys.Actions, u.keys.Meta} }

// stageArgs returns the arguments of lua/stage.lua for the pending actions.
func (u *upload) stageArgs() []any { return append([]any{rdb.Millis(stagedTTL)}, u.pending...) }

// Abort implements [batch.Upload].
func (u *upload) Abort(context.Context) {
	if u.committed || u.replay {
		return
	}
	u.committed = true
	u.s.background.Detach(u.drop)
}

// drop refunds the quota of an upload that was aborted, and removes its keys.
func (u *upload) drop(ctx context.Context) {
	_ = u.settle(ctx) // so that the last chunk is removed, too
	if u.doubtful {
		if u.marker.exists() {
			u.marker.remove(ctx) // Redis then refuses a commit that comes late, and the idempotency key is free
		}
		var answer []string
		err := rdb.RetryUnavailable(ctx, func() (err error) {
			answer, err = u.s.db.Run(ctx, Steps.Drop, []string{u.keys.Meta, u.keys.Actions, u.keys.Groups})
			return err
		})
		if err != nil || answer[0] == "0" {
			u.s.log.WarnContext(ctx, "a batch that was not acknowledged may run", "batch", u.id, "error", err)
			return
		}
		u.refund(ctx)
		u.release(ctx, u.id)
		u.s.unclaim(ctx, u.claim, u.id)
		return
	}
	u.refund(ctx)
	crash.At(crash.Readmitted)
	u.release(ctx, u.id)
	defer u.s.unclaim(ctx, u.claim, u.id) // after the marker was removed
	keys := []string{u.keys.Actions, u.keys.Groups}
	if u.marker.exists() {
		keys = append(keys, u.keys.Upload)
	} else if u.staged == 0 && len(u.pending) == 0 {
		return
	}
	if err := u.s.db.Unlink(ctx, keys...); err != nil {
		u.s.log.WarnContext(ctx, "keys of an aborted upload not removed, they will expire", "batch", u.id, "error", err)
	}
}
