package queue

import (
	"cmp"
	"context"
	"crypto/hmac"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"runtime"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/crash"
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
	// stagePatience bounds the staging of a chunk of a larger upload. It is shorter than
	// that of other steps, since somebody waits to be told to come back.
	stagePatience = time.Second
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
	committed bool // a commit was tried; from then on only time removes anything
	doubtful  bool // a commit was tried and failed: whether the batch exists is to be asked
}

// Open implements [batch.Store].
func (s *Store) Open(ctx context.Context, owner, key string) (batch.Upload, error) {
	if err := s.spare(ctx); err != nil {
		return nil, err
	}
	id, err := uuid.NewV7()
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
		s.aside(u.unmark)
		return nil, err
	}
	crash.At(crash.KeyClaimed)
	return u, nil
}

// claimKey decides whose the idempotency key is. An upload may commit only
// while its marker stands, and a key is taken from another upload only once that
// one has neither a marker nor a batch, so at most one of two can commit.
func (u *upload) claimKey(ctx context.Context) error {
	if err := u.mark(ctx); err != nil {
		return err
	}
	seen := ""
	for {
		answer, err := u.s.run(ctx, u.s.steps.claim, []string{u.claim}, seen, u.id, millis(claimTTL))
		if err != nil {
			return err
		}
		holder := answer[0]
		if holder == u.id {
			return nil
		}
		exists, busy, err := u.s.lookUp(ctx, holder)
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
		seen = holder
	}
}

// lookUp reports, of one moment, whether a batch exists and whether its upload is open.
func (s *Store) lookUp(ctx context.Context, id string) (exists, open bool, err error) {
	ctx, cancel := s.within(ctx)
	defer cancel()
	k := keysOf(id)
	var meta, marker *redis.IntCmd
	_, err = s.rdb.TxPipelined(ctx, func(p redis.Pipeliner) error {
		meta, marker = p.Exists(ctx, k.meta), p.Exists(ctx, k.upload)
		return nil
	})
	if err != nil {
		return false, false, mapError(ctx, err)
	}
	return meta.Val() == 1, marker.Val() == 1, nil
}

func (u *upload) mark(ctx context.Context) error {
	ctx, cancel := u.s.within(ctx)
	defer cancel()
	var err error
	if u.markedAt.IsZero() {
		err = u.s.rdb.Set(ctx, u.keys.upload, 1, markerTTL).Err()
	} else { // a marker that is gone stays gone: the key may be another's
		err = u.s.rdb.PExpire(ctx, u.keys.upload, markerTTL).Err()
	}
	u.markedAt = time.Now()
	return mapError(ctx, err)
}

// unmark gives the idempotency key back. A marker that is left behind keeps it
// busy, so this bears with a Redis that is away for as long as that would last.
func (u *upload) unmark(ctx context.Context) {
	if err := u.s.unlink(ctx, u.keys.upload); err != nil {
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
	sealed := u.s.seals.seal(place{u.id, "a", u.n}, u.scratch)
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
	return u.flush(ctx)
}

// keepMark renews the marker of an upload that takes its time.
func (u *upload) keepMark(ctx context.Context) error {
	if u.markedAt.IsZero() || time.Since(u.markedAt) < markerTTL/4 {
		return nil
	}
	return u.mark(ctx)
}

// flush has the pending actions staged, while the next ones are read. It waits for those before.
func (u *upload) flush(ctx context.Context) error {
	if err := u.settle(); err != nil || len(u.pending) == 0 {
		return err
	}
	u.staged += len(u.pending) / 2
	args, upTo, done := u.stageArgs(), u.staged, make(chan error, 1)
	u.pending, u.bytes, u.staging = u.pending[:0], 0, done
	ctx = context.WithoutCancel(ctx) // a commit in the meantime does not depend on the client any more
	go func() { done <- u.stage(ctx, args, upTo) }()
	return nil
}

// settle waits for the chunk that is being staged.
func (u *upload) settle() error {
	if u.staging == nil {
		return nil
	}
	err := <-u.staging
	u.staging = nil
	return err
}

// stage stages a chunk, after which so many actions are.
func (u *upload) stage(ctx context.Context, args []any, upTo int) error {
	ctx, cancel := context.WithTimeoutCause(ctx, stagePatience, errSlow)
	defer cancel()
	answer, err := u.s.run(ctx, u.s.steps.stage, u.stageKeys(), args...)
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

func (u *upload) stageArgs() []any { return append([]any{millis(stagedTTL)}, u.pending...) }

// Commit implements [batch.Upload].
func (u *upload) Commit(ctx context.Context, spec *batch.Spec) (*batch.Batch, bool, error) {
	if u.replay {
		b, err := u.replayed(ctx, spec)
		return b, true, err
	}
	lane := batch.LaneFor(u.n, spec.Waited)
	args, err := u.commitArgs(spec, lane)
	if err != nil {
		return nil, false, err
	}
	out := fanOut{id: u.id, route: route{spec.Target, lane}, total: u.n, throttled: spec.Throttle != nil}
	created, err := u.commit(ctx, spec, args, &out)
	if err != nil {
		return nil, false, err
	}
	crash.At(crash.Committed)
	if olderThan(u.id, stagedTTL/2) {
		// It took so long that somebody may have taken its entries for those of an
		// upload that came to nothing.
		if err := u.index(context.WithoutCancel(ctx), spec); err != nil {
			u.s.log.ErrorContext(ctx, "a batch may be missing from the indexes", "batch", u.id, "error", err)
		}
	}
	b := &batch.Batch{
		ID: u.id, Owner: u.owner, Target: spec.Target, Lane: lane, Status: batch.StatusQueued,
		Counts: batch.Counts{Total: u.n, Pending: u.n}, WebhookURL: spec.WebhookURL, Metadata: spec.Metadata,
		CreatedAt: created, ExpiresAt: created.Add(spec.ExpiresIn), Retention: spec.Retention,
	}
	u.s.startFanOut(ctx, out)
	return b, false, nil
}

func (u *upload) commitArgs(spec *batch.Spec, lane batch.Lane) ([]any, error) {
	needMarker := "0"
	if u.claim != "" {
		needMarker = "1"
	}
	args := []any{
		u.n, needMarker, millis(spec.ExpiresIn), millis(spec.Retention),
		len(u.groups.order), u.groups.states(u.n),
		"owner", u.owner, "target", spec.Target, "lane", string(lane), "fingerprint", hex.EncodeToString(spec.Fingerprint),
	}
	if spec.WebhookURL != "" {
		args = append(args, "webhook", "1", "delivery", string(batch.DeliveryWaiting))
	}
	if spec.Throttle != nil {
		limit, err := json.Marshal(spec.Throttle)
		if err != nil {
			return nil, fmt.Errorf("encode the limit: %w", err)
		}
		args = append(args, "throttle", limit)
	}
	if private := encodePrivate(spec); private != nil {
		args = append(args, "private", u.s.seals.seal(place{u.id, "m", 0}, private))
	}
	return args, nil
}

// commit stages what is left, writes both indexes, and commits. It returns when the
// batch was created. The indexes come first: an entry without a batch is dropped by
// whoever meets it, a batch without an entry would be found by nobody.
func (u *upload) commit(ctx context.Context, spec *batch.Spec, args []any, out *fanOut) (time.Time, error) {
	if u.s.shards == 1 && u.staged == 0 && u.claim == "" && len(u.groups.order) == 0 {
		answer, err := u.commitAtOnce(ctx, spec, args, out)
		if !redis.HasErrorPrefix(err, "NOSCRIPT") {
			return u.created(answer, err)
		}
	}
	if err := cmp.Or(u.flush(ctx), u.settle()); err != nil {
		return time.Time{}, err
	}
	if err := u.index(ctx, spec); err != nil {
		return time.Time{}, err
	}
	crash.At(crash.Indexed)
	if err := u.stageGroups(ctx); err != nil {
		return time.Time{}, err
	}
	crash.At(crash.BeforeCommit)
	u.committed = true
	return u.created(u.s.run(ctx, u.s.steps.commit, u.commitKeys(), args...))
}

// commitAtOnce does it all in one exchange, for a small batch, and has its tasks
// enqueued along with it if they are few. One server runs what comes over a connection
// in its order, so if it breaks off, what stands is what could stand otherwise. Should
// the commit fail, its tasks find no batch, and end. Should an index be refused and the
// commit not, the client is told so, and the batch may run all the same.
func (u *upload) commitAtOnce(ctx context.Context, spec *batch.Spec, args []any, out *fanOut) (_ []string, err error) {
	ctx, cancel := u.s.within(ctx)
	defer cancel()
	defer func() { u.committed, u.doubtful = err == nil, err != nil }()
	pipe := u.s.rdb.Pipeline()
	pipe.EvalSha(ctx, u.s.steps.stage.Hash(), u.stageKeys(), u.stageArgs()...)
	u.addIndexes(ctx, pipe, spec)
	commit := pipe.EvalSha(ctx, u.s.steps.commit.Hash(), u.commitKeys(), args...)
	upTo := pipe.Len()
	var tasks map[string]*redis.Cmd
	if u.n <= fanOutChunk && !out.throttled {
		if tasks, err = u.s.addTasks(ctx, pipe, u.s.tasksOf(u.id, out.route, "", span(0, u.n))); err != nil {
			return nil, err
		}
	}
	for _, cmd := range send(ctx, pipe)[:upTo] { // a batch that lacks an entry is not to be acknowledged
		if err := cmd.Err(); err != nil {
			return nil, mapError(ctx, err)
		}
	}
	if tasks != nil {
		_, err := u.s.countTasks(ctx, tasks)
		out.enqueued = err == nil // else they are enqueued once more
	}
	return commit.StringSlice() //nolint:wrapcheck // it is no error of Redis
}

func (u *upload) commitKeys() []string { return append(u.keys.step(), u.keys.upload) }

// created reads the answer of lua/commit.lua.
func (u *upload) created(answer []string, err error) (time.Time, error) {
	if err != nil {
		return time.Time{}, fmt.Errorf("commit the batch: %w", err)
	}
	if answer[0] != "ok" {
		return time.Time{}, batch.ErrUploadLost
	}
	return fromMillis(answer[1]), nil
}

func (u *upload) replayed(ctx context.Context, spec *batch.Spec) (*batch.Batch, error) {
	m, err := u.s.meta(ctx, u.id)
	if err != nil {
		return nil, err
	}
	if m["owner"] != u.owner {
		return nil, batch.ErrUploadLost // deleted in the meantime
	}
	if !hmac.Equal([]byte(m["fingerprint"]), []byte(hex.EncodeToString(spec.Fingerprint))) {
		return nil, batch.ErrKeyReused
	}
	return u.s.batchFrom(u.id, m)
}

func (u *upload) index(ctx context.Context, spec *batch.Spec) error {
	if u.claim != "" {
		life := spec.ExpiresIn + spec.Retention
		answer, err := u.s.run(ctx, u.s.steps.claim, []string{u.claim}, u.id, u.id, millis(max(life, claimTTL)))
		if err != nil {
			return err
		}
		if answer[0] != u.id {
			return batch.ErrUploadLost
		}
	}
	ctx, cancel := u.s.within(ctx)
	defer cancel()
	_, err := u.s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		u.addIndexes(ctx, p, spec)
		return nil
	})
	return mapError(ctx, err)
}

func (u *upload) addIndexes(ctx context.Context, p redis.Pipeliner, spec *batch.Spec) {
	owner := ownerKey(u.owner)
	p.ZAdd(ctx, owner, redis.Z{Member: u.id})
	p.ZRemRangeByLex(ctx, owner, "-", "("+idAt(time.Now().Add(-ownerIndexTTL)))
	p.PExpire(ctx, owner, ownerIndexTTL)
	p.ZAdd(ctx, openKey, redis.Z{Member: u.id})
	if spec.Throttle != nil {
		p.ZAdd(ctx, throttledKey, redis.Z{Member: u.id})
	}
}

// idAt returns the beginning of the ids made at that time: version 7 UUIDs sort
// by time (RFC 9562 §5.7).
func idAt(t time.Time) string {
	ms := fmt.Sprintf("%012x", t.UnixMilli())
	return ms[:8] + "-" + ms[8:]
}

// Abort implements [batch.Upload].
func (u *upload) Abort(context.Context) {
	if u.committed || u.replay {
		return
	}
	u.committed = true
	u.s.aside(u.drop)
}

// drop gives back what an upload was admitted, and removes what it has left.
func (u *upload) drop(ctx context.Context) {
	_ = u.settle() // what it stages is to go, too
	if u.doubtful {
		var answer []string
		err := u.s.insist(ctx, func() (err error) {
			answer, err = u.s.run(ctx, u.s.steps.drop, []string{u.keys.meta, u.keys.actions})
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
	if err := u.s.unlink(ctx, keys...); err != nil {
		u.s.log.WarnContext(ctx, "broken upload left to expire", "batch", u.id, "error", err)
	}
}

// private is what of a batch may hold secrets.
type private struct {
	WebhookURL string            `json:"webhook_url,omitempty"`
	Metadata   map[string]string `json:"metadata,omitempty"`
}

func encodePrivate(spec *batch.Spec) []byte {
	if spec.WebhookURL == "" && len(spec.Metadata) == 0 {
		return nil
	}
	out, _ := json.Marshal(private{WebhookURL: spec.WebhookURL, Metadata: spec.Metadata}) // strings always encode
	return out
}

func decodePrivate(data []byte, b *batch.Batch) error {
	var p private
	if err := json.Unmarshal(data, &p); err != nil {
		return fmt.Errorf("decode the private part: %w", err)
	}
	b.WebhookURL, b.Metadata = p.WebhookURL, p.Metadata
	return nil
}
