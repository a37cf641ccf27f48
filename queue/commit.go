package queue

import (
	"cmp"
	"context"
	"crypto/hmac"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/crash"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/seal"
)

// alongBytes is the most bytes of a batch that holds up a turn of a server.
const alongBytes = 64 << 10

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
	out := fanOut{flow: flow{owner: u.owner, id: u.id, route: route{spec.Target, lane}}, total: u.n, throttled: spec.Throttle != nil}
	created, err := u.commit(ctx, spec, args, &out)
	if err != nil {
		return nil, false, err
	}
	crash.At(crash.Committed)
	b := &batch.Batch{
		ID: u.id, Owner: u.owner, Target: spec.Target, Lane: lane, Status: batch.StatusQueued,
		Counts: batch.Counts{Total: u.n, Pending: u.n}, WebhookURL: spec.WebhookURL, Metadata: spec.Metadata,
		CreatedAt: created, ExpiresAt: created.Add(spec.ExpiresIn), Retention: spec.Retention, Scope: spec.Scope,
	}
	u.s.startFanOut(ctx, out)
	return b, false, nil
}

func (u *upload) commitArgs(spec *batch.Spec, lane batch.Lane) ([]any, error) {
	needMarker := "0"
	if !u.markedAt.IsZero() { // by it whoever gives the upload up has what comes late refused
		needMarker = "1"
	}
	args := []any{
		u.n, needMarker, rdb.Millis(spec.ExpiresIn), rdb.Millis(spec.Retention),
		len(u.groups.order), u.groups.states(u.n), u.id, rdb.Millis(claimLife(spec)), rdb.Millis(ownerIndexTTL),
		"owner", u.owner, "target", spec.Target, "lane", string(lane), "fingerprint", hex.EncodeToString(spec.Fingerprint),
	}
	if spec.WebhookURL != "" {
		args = append(args, "webhook", "1", "delivery", string(batch.DeliveryWaiting))
	}
	if spec.Scope != "" {
		args = append(args, "scope", spec.Scope)
	}
	if spec.Throttle != nil {
		limit, err := json.Marshal(spec.Throttle)
		if err != nil {
			return nil, fmt.Errorf("encode the limit: %w", err)
		}
		args = append(args, "throttle", limit, "handed", 0)
	}
	if private := encodePrivate(spec); private != nil {
		args = append(args, "private", u.s.seals.Seal(seal.Label{ID: u.id, Kind: "m"}, private))
	}
	return args, nil
}

// commit stages what is left and commits. It returns when the batch was created. One
// server writes the indexes in the step that commits. In a cluster they come first: an
// entry without a batch is dropped by the process that meets it, a batch without an entry
// would never be found. The actions are staged before the entry is made, so a process that
// meets it sees them and waits; the owner's list is put in order afterwards, by the time of
// the batch.
func (u *upload) commit(ctx context.Context, spec *batch.Spec, args []any, out *fanOut) (time.Time, error) {
	if u.s.shards == 1 && u.staged == 0 && len(u.groups.order) == 0 {
		answer, err := u.commitAtOnce(ctx, args, out)
		if !redis.HasErrorPrefix(err, "NOSCRIPT") {
			return u.created(answer, err)
		}
	}
	if err := cmp.Or(u.flush(ctx), u.settle(ctx)); err != nil {
		return time.Time{}, err
	}
	if err := u.extendClaim(ctx, spec); err != nil {
		return time.Time{}, err
	}
	if u.s.shards > 1 {
		if err := u.index(ctx, out.throttled); err != nil {
			return time.Time{}, err
		}
		if err := u.list(ctx, "", true); err != nil {
			return time.Time{}, err
		}
	}
	crash.At(crash.Indexed)
	if err := u.stageGroups(ctx); err != nil {
		return time.Time{}, err
	}
	crash.At(crash.BeforeCommit)
	u.doubtful = true
	answer, err := u.s.db.Run(ctx, u.s.steps.commit, u.commitKeys(), args...)
	created, err := u.created(answer, err)
	if err == nil && u.s.shards > 1 {
		if err := u.list(ctx, answer[2], false); err != nil {
			u.s.log.WarnContext(ctx, "a batch is listed by the time before its commit", "batch", u.id, "error", err)
		}
	}
	return created, err
}

// list puts the batch into its owner's list, by the time at which it was created, in
// microseconds; empty means now.
func (u *upload) list(ctx context.Context, created string, keep bool) error {
	_, err := u.s.db.Run(ctx, u.s.steps.list, []string{ownerKey(u.owner)}, u.id, created, rdb.Millis(ownerIndexTTL), keep)
	return err
}

// commitAtOnce stages, commits and offers a small batch in one exchange. A consumer of this process
// takes tasks along with it. One server runs the commands of a connection in their order, so if
// the exchange breaks off, it leaves what several exchanges could leave. If the commit fails, nothing is offered.
func (u *upload) commitAtOnce(ctx context.Context, args []any, out *fanOut) ([]string, error) {
	ctx, cancel := u.s.db.WithTimeout(ctx)
	defer cancel()
	u.doubtful = true
	pipe := u.s.db.Client.Pipeline()
	pipe.EvalSha(ctx, u.s.steps.stage.Hash(), u.stageKeys(), u.stageArgs()...)
	commit := pipe.EvalSha(ctx, u.s.steps.commit.Hash(), u.commitKeys(), args...)
	upTo := pipe.Len()
	var offer *queueSteps
	var poll piggybackPoll = noPoll{}
	queue := u.s.queueOf(out.route, u.id, 0) // there is one
	if !out.throttled {
		if u.bytes <= alongBytes {
			poll = u.s.piggyback.poll(ctx, queue)
		}
		offer = u.s.addOffer(ctx, pipe, out.flow, []indexRange{{0, u.n}}, u.keys.meta, !poll.wakesOthers())
		poll.add(ctx, pipe)
	}
	cmds := u.s.db.Send(ctx, pipe)
	taken := poll.took(ctx)
	for _, cmd := range cmds[:upTo] {
		if err := cmd.Err(); err != nil {
			return nil, rdb.MapError(ctx, err)
		}
	}
	if offer != nil {
		late := offer.cmds[queue].Err() != nil       // it is sent again, after the poll
		out.offered = offer.read(ctx, u.s.db) == nil // else they are offered once more
		if taken < u.n || late {
			u.s.wakeLocal(queue)
		}
		if poll.wakesOthers() && (late || poll.failed()) {
			u.s.tellWorkers(ctx, queue) // the poll found nothing to wake them for, or did not
		}
	}
	return commit.StringSlice() //nolint:wrapcheck // it is no error of Redis
}

func (u *upload) commitKeys() []string {
	keys := append(u.keys.step(), u.keys.upload)
	if u.s.shards > 1 {
		return keys
	}
	keys = append(keys, ownerKey(u.owner), openKey, throttledKey)
	if u.claim != "" {
		keys = append(keys, u.claim)
	}
	return keys
}

// claimLife is how long the idempotency key of a batch points at it.
func claimLife(spec *batch.Spec) time.Duration { return max(spec.ExpiresIn+spec.Retention, claimTTL) }

// created reads the answer of lua/commit.lua.
func (u *upload) created(answer []string, err error) (time.Time, error) {
	if err != nil {
		return time.Time{}, fmt.Errorf("commit the batch: %w", err)
	}
	if answer[0] != "ok" {
		return time.Time{}, batch.ErrUploadLost
	}
	u.committed = true
	return rdb.FromMillis(answer[1]), nil
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
	b, err := u.s.batchFrom(u.id, m)
	if err != nil || b.Status.Terminal() {
		return b, err
	}
	// In a cluster the entries may be gone: another process may have removed them before the commit.
	if err := u.list(ctx, m["created"]+"000", true); err != nil {
		return nil, err
	}
	return b, u.index(ctx, m["throttle"] != "")
}

// extendClaim has the idempotency key point at the batch for as long as that is kept.
func (u *upload) extendClaim(ctx context.Context, spec *batch.Spec) error {
	if u.claim == "" || u.s.shards == 1 { // then the commit does it
		return nil
	}
	answer, err := u.s.db.Run(ctx, u.s.steps.claim, []string{u.claim}, u.id, u.id, rdb.Millis(claimLife(spec)))
	if err == nil && answer[0] != u.id {
		err = batch.ErrUploadLost
	}
	return err
}

// index enters the batch into the lists of the batches that the sweeper looks after.
func (u *upload) index(ctx context.Context, throttled bool) error {
	ctx, cancel := u.s.db.WithTimeout(ctx)
	defer cancel()
	_, err := u.s.db.Client.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.ZAdd(ctx, openKey, redis.Z{Member: u.id})
		if throttled {
			p.ZAdd(ctx, throttledKey, redis.Z{Member: u.id})
		}
		return nil
	})
	return rdb.MapError(ctx, err)
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
