package upload

import (
	"cmp"
	"context"
	"crypto/hmac"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/crash"
	"github.com/batchd/batchd/queue/fanout"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/seal"
	"github.com/batchd/batchd/queue/tasks"
)

// piggybackBytes is the most bytes of a batch whose commit shares its exchange with a poll: a larger one would delay the poll.
const piggybackBytes = 64 << 10

// Commit implements [batch.Upload].
func (u *upload) Commit(ctx context.Context, spec *batch.Spec) (*batch.Batch, bool, error) {
	if u.replay {
		b, err := u.replayed(ctx, spec)
		return b, true, err
	}
	lane := batch.LaneFor(u.n, spec.Waited)
	args, err := u.commitArgs(ctx, spec, lane)
	if err != nil {
		return nil, false, err
	}
	out := fanout.Batch{Flow: tasks.Flow{Owner: u.owner, ID: u.id, Route: tasks.Route{Target: spec.Target, Lane: lane}}, Total: u.n, Throttled: spec.Throttle != nil}
	if args, err = u.chargeAll(ctx, u.id, u.n, args); err != nil {
		return nil, false, err
	}
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
	u.s.fanout.Start(ctx, out)
	return b, false, nil
}

// commitArgs returns the arguments of lua/commit.lua.
func (u *upload) commitArgs(ctx context.Context, spec *batch.Spec, lane batch.Lane) ([]any, error) {
	needMarker := "0"
	if u.marker.exists() { // a process that gives the upload up removes the marker, and a late commit is refused
		needMarker = "1"
	}
	args := []any{
		u.n, needMarker, rdb.Millis(spec.ExpiresIn), rdb.Millis(spec.Retention),
		len(u.groups.order), u.groups.states(u.n), u.id, rdb.Millis(claimLife(spec)), rdb.Millis(listTTL), "",
	}
	fields, err := u.fields(ctx, spec, lane)
	if err != nil {
		return nil, err
	}
	for name, value := range fields {
		switch name {
		case "total", "groups", "retention": // the step writes them itself
		default:
			args = append(args, name, value)
		}
	}
	if spec.WebhookURL != "" {
		args = append(args, "delivery", string(batch.DeliveryWaiting))
	}
	if spec.Throttle != nil {
		limit, err := json.Marshal(spec.Throttle)
		if err != nil {
			return nil, fmt.Errorf("encode the limit: %w", err)
		}
		args = append(args, "throttle", limit, "handed", 0)
	}
	return append(args, "head", u.s.batches.Codec.SealHead(u.id, fields)), nil
}

// fields returns the fields of the batch's hash that its head authenticates, and the private part.
func (u *upload) fields(ctx context.Context, spec *batch.Spec, lane batch.Lane) (map[string]string, error) {
	fields := map[string]string{
		"owner": u.owner, "target": spec.Target, "lane": string(lane), "total": strconv.Itoa(u.n),
		"retention": fmt.Sprint(rdb.Millis(spec.Retention)),
	}
	if n := len(u.groups.order); n > 0 {
		fields["groups"] = strconv.Itoa(n)
	}
	if spec.WebhookURL != "" {
		fields["webhook"] = "1"
	}
	if spec.Scope != "" {
		fields["scope"] = spec.Scope
	}
	if u.claim != "" {
		fingerprint, err := u.s.fingerprint(ctx, u.claimHash, spec)
		if err != nil {
			return nil, err
		}
		fields["key"], fields["fingerprint"] = u.claimHash, fingerprint
	}
	if private := u.s.batches.Codec.SealPrivate(u.id, spec); private != nil {
		fields["private"] = string(private)
	}
	return fields, nil
}

// fingerprint returns the keyed hash of the submission's fingerprint. Without the salt, an attacker cannot find the content
// of a submission by trying.
func (s *Uploads) fingerprint(ctx context.Context, claimHash string, spec *batch.Spec) (string, error) {
	hash, err := s.batches.Owners.Hash(ctx, "fingerprint", []byte(claimHash), spec.Fingerprint)
	return hex.EncodeToString(hash[:hashSize]), err
}

// commit stages the remaining actions and commits. It returns the time at which the batch was created. On
// one server, the step that commits also writes the index entries. On a cluster the entries are written
// first: a process that finds an entry without a batch removes the entry, but no process would find a batch
// without an entry. The actions are staged before the entries are written, so a process that finds an entry
// sees them and waits. The lists of batches are sorted by the time of the batch afterwards.
func (u *upload) commit(ctx context.Context, spec *batch.Spec, args []any, out *fanout.Batch) (time.Time, error) {
	if u.s.db.Cluster == nil && u.staged == 0 && len(u.groups.order) == 0 {
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
	if u.s.db.Cluster != nil {
		if err := u.index(ctx, out.Throttled); err != nil {
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
	answer, err := u.s.db.Run(ctx, Steps.Commit, u.commitKeys(), args...)
	created, err := u.created(answer, err)
	if err == nil && u.s.db.Cluster != nil {
		if err := u.list(ctx, answer[2], false); err != nil {
			u.s.log.WarnContext(ctx, "batch listed with a time before its commit", "batch", u.id, "error", err)
		}
	}
	return created, err
}

// list adds the batch to its owner's list and to that of all batches, with the time at which it was created, in
// microseconds; empty means now. If keep is set, existing entries stay as they are.
func (u *upload) list(ctx context.Context, created string, keep bool) error {
	var both sync.WaitGroup
	var ofOwner, ofAll error
	enter := func(err *error, key, member string) {
		both.Go(func() {
			_, *err = u.s.db.Run(ctx, Steps.List, []string{key}, member, created, rdb.Millis(listTTL), keep)
		})
	}
	enter(&ofOwner, keys.OwnerKey(u.owner), u.id)
	enter(&ofAll, keys.AllBatchesKey, keys.AllBatchesMember(u.id, u.owner))
	both.Wait()
	return cmp.Or(ofOwner, ofAll)
}

// commitAtOnce stages, commits and offers a small batch in one exchange, with a poll of a consumer of this
// process. One server runs the commands of a connection in order, so an exchange that breaks off has the same
// effect as several exchanges of which the last ones were not made. If the commit fails, nothing is offered.
func (u *upload) commitAtOnce(ctx context.Context, args []any, out *fanout.Batch) ([]string, error) {
	ctx, cancel := u.s.db.WithTimeout(ctx)
	defer cancel()
	u.doubtful = true
	pipe := u.s.db.Client.Pipeline()
	pipe.EvalSha(ctx, Steps.Stage.Hash(), u.stageKeys(), u.stageArgs()...)
	commit := pipe.EvalSha(ctx, Steps.Commit.Hash(), u.commitKeys(), args...)
	upTo := pipe.Len()
	var offer *tasks.QueueSteps
	var poll tasks.PiggybackPoll = tasks.NoPoll{}
	queue := u.s.tasks.QueueOf(out.Route, u.id, 0) // the only one of the lane
	if !out.Throttled {
		if u.bytes <= piggybackBytes {
			poll = u.s.Piggyback.Poll(ctx, queue)
		}
		offer = u.s.tasks.AddOffer(ctx, pipe, out.Flow, []tasks.IndexRange{{From: 0, To: u.n}}, u.keys.Meta, !poll.WakesOthers())
		poll.Add(ctx, pipe)
	}
	cmds := u.s.db.Send(ctx, pipe)
	taken := poll.Read(ctx)
	for _, cmd := range cmds[:upTo] {
		if err := cmd.Err(); err != nil {
			return nil, rdb.MapError(ctx, err)
		}
	}
	if offer != nil {
		late := offer.Cmds[queue].Err() != nil       // AnswerOf sends the offer again, after the poll
		out.Offered = offer.Read(ctx, u.s.db) == nil // otherwise the fan-out offers the actions once more
		if taken < u.n || late {
			u.s.tasks.WakeLocal(queue)
		}
		if poll.WakesOthers() && (late || poll.Failed()) {
			u.s.tasks.WakeWorkers(ctx, queue) // the poll ran before the offer, or failed, and woke no worker
		}
	}
	return commit.StringSlice() //nolint:wrapcheck // it is no error of Redis
}

// commitKeys returns the keys of lua/commit.lua.
func (u *upload) commitKeys() []string {
	names := append(u.keys.Step(), u.keys.Upload)
	if u.s.db.Cluster != nil {
		return names
	}
	names = append(names, keys.OwnerKey(u.owner), keys.OpenKey, keys.ThrottledKey, keys.AllBatchesKey)
	if u.claim != "" {
		names = append(names, u.claim)
	}
	return names
}

// claimLife returns how long the idempotency key of a batch refers to it.
func claimLife(spec *batch.Spec) time.Duration { return max(spec.ExpiresIn+spec.Retention, claimTTL) }

// created reads the answer of lua/commit.lua, and returns the time at which the batch was created.
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

// replayed returns the batch of the earlier submission with the same idempotency key.
func (u *upload) replayed(ctx context.Context, spec *batch.Spec) (*batch.Batch, error) {
	m, err := u.s.batches.Meta(ctx, u.id)
	if err != nil {
		return nil, err
	}
	if len(m) == 0 {
		return nil, batch.ErrUploadLost // deleted in the meantime
	}
	if m["owner"] != u.owner || m["key"] != u.claimHash {
		return nil, &batch.DamagedError{ID: u.id, Err: fmt.Errorf("replay batch %s: it does not belong to the idempotency key: %w", u.id, seal.ErrSealed)}
	}
	b, err := u.s.batches.Codec.DecodeBatch(u.id, m)
	if err != nil {
		return nil, err
	}
	fingerprint, err := u.s.fingerprint(ctx, u.claimHash, spec)
	if err != nil {
		return nil, err
	}
	if !hmac.Equal([]byte(m["fingerprint"]), []byte(fingerprint)) {
		return nil, batch.ErrKeyReused
	}
	if b.Status.Terminal() || u.s.db.Cluster == nil { // on one server, the commit wrote the entries
		return b, nil
	}
	// On a cluster the entries may be missing: another process may have removed them before the commit.
	if err := u.list(ctx, m["created"]+"000", true); err != nil {
		return nil, err
	}
	return b, u.index(ctx, m["throttle"] != "")
}

// extendClaim extends the life of the idempotency key to that of the batch.
func (u *upload) extendClaim(ctx context.Context, spec *batch.Spec) error {
	if u.claim == "" || u.s.db.Cluster == nil { // on one server, the commit does it
		return nil
	}
	answer, err := u.s.db.Run(ctx, Steps.Claim, []string{u.claim}, u.id, u.id, rdb.Millis(claimLife(spec)))
	if err == nil && answer[0] != u.id {
		err = batch.ErrUploadLost
	}
	return err
}

// index adds the batch to the lists of open and throttled batches, which the sweeper reads.
func (u *upload) index(ctx context.Context, throttled bool) error {
	ctx, cancel := u.s.db.WithTimeout(ctx)
	defer cancel()
	_, err := u.s.db.Client.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.ZAdd(ctx, keys.OpenKey, redis.Z{Member: u.id})
		if throttled {
			p.ZAdd(ctx, keys.ThrottledKey, redis.Z{Member: u.id})
		}
		return nil
	})
	return rdb.MapError(ctx, err)
}
