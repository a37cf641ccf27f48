package fanout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/crash"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/limits"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/tasks"
)

// releaseChunks is the most chunks of one batch that a round of [Fanout.ReleaseThrottled] hands out at a time.
const releaseChunks = 10

// readMetas reads the hashes of batches in one exchange. A batch that it could not read has no entry in metas, and
// err has the cause, unless the process already knows that the node of the batch is away.
func (f *Fanout) readMetas(ctx context.Context, ids []string) (metas map[string]map[string]string, err error) {
	ctx, cancel := f.db.WithTimeout(ctx)
	defer cancel()
	pipe := f.db.Client.Pipeline()
	cmds := make([]*redis.MapStringStringCmd, len(ids))
	for i, id := range ids {
		if key := keys.KeysOf(id).Meta; !f.db.IsAway(ctx, key) {
			cmds[i] = pipe.HGetAll(ctx, key)
		}
	}
	f.db.Send(ctx, pipe)
	metas = make(map[string]map[string]string, len(ids))
	for i, id := range ids {
		if cmds[i] == nil {
			continue
		}
		if fault := cmds[i].Err(); fault != nil {
			err = fmt.Errorf("read the hash of batch %s: %w", id, rdb.MapError(ctx, fault))
			f.db.NoteAway(ctx, keys.KeysOf(id).Meta, err)
			continue
		}
		metas[id] = cmds[i].Val()
	}
	return metas, err
}

// release hands out as many actions of a batch as the limit of its owner admits now. Any number of processes may
// do so at the same time, and a process may die at any point: the grant records the actions that the limit admits
// before the batch hands them out, the batch records the actions that it hands out before they are offered, and
// each of these three steps continues from the records of the one before.
func (f *Fanout) release(ctx context.Context, id string) error {
	metas, err := f.readMetas(ctx, []string{id})
	m, read := metas[id]
	if !read {
		return err // nil if the node is away: the sweeper releases the actions later
	}
	state, err := f.releaseStateOf(ctx, id, m)
	if err != nil || state == releaseStaged || state == releaseDone {
		return err // the sweeper removes a batch that is done from the list
	}
	if err := f.completeHandOut(ctx, id, m); err != nil || state == releaseGiven {
		return err
	}
	grant, err := f.askFor(ctx, id, m)
	if err != nil || grant.Holds <= int(rdb.Atoi(m["given"])) {
		return err
	}
	_, err = f.handOut(ctx, id, m, grant.Holds, 0)
	return err
}

// releaseState is the state of a throttled batch, as its release needs it.
type releaseState int

const (
	releaseStaged releaseState = iota // an upload may be about to commit the batch
	releaseDone                       // the batch has ended, is ending or gone, or all of its actions are offered
	releaseGiven                      // the limit has admitted all of its actions, and not all of them are offered
	releaseWaits                      // the limit has not admitted all of its actions
)

// releaseStateOf returns the state of a throttled batch with the hash m.
func (f *Fanout) releaseStateOf(ctx context.Context, id string, m map[string]string) (releaseState, error) {
	given, upTo := int(rdb.Atoi(m["given"])), RoundSize(m)
	if len(m) == 0 {
		staged, err := f.batches.Index.Staged(ctx, []string{id})
		if err != nil || staged[id] {
			return releaseStaged, err
		}
	}
	switch {
	case len(m) == 0, m["throttle"] == "", m["ending"] != "", m["ended"] != "":
		return releaseDone, nil
	case given < upTo:
		return releaseWaits, nil
	case rdb.Atoi(m["enqueued"]) >= rdb.Atoi(m["handed"]):
		return releaseDone, nil
	}
	return releaseGiven, nil
}

// completeHandOut offers the actions that another process handed out and did not offer before it died.
func (f *Fanout) completeHandOut(ctx context.Context, id string, m map[string]string) error {
	handed, enqueued := int(rdb.Atoi(m["handed"])), int(rdb.Atoi(m["enqueued"]))
	if enqueued >= handed {
		return nil
	}
	if err := f.OfferWaiting(ctx, tasks.FlowOf(id, m), enqueued, handed); err != nil {
		return err
	}
	_, err := f.recordProgress(ctx, id, m["grant"], handed)
	return err
}

// askFor asks the limit of the owner to admit as many actions of a batch as it has room for.
func (f *Fanout) askFor(ctx context.Context, id string, m map[string]string) (*limits.Given, error) {
	var limit batch.Limit
	if err := json.Unmarshal([]byte(m["throttle"]), &limit); err != nil {
		return nil, fmt.Errorf("decode the limit: %w", err)
	}
	grant, err := f.limits.Admit(ctx, limits.Asked{Owner: m["owner"], Grant: limits.GrantName(id, m["grant"]), N: RoundSize(m), Limit: limit, Partial: true, Kept: true})
	if err == nil && grant.Holds > int(rdb.Atoi(m["given"])) {
		crash.At(crash.Fed)
	}
	return grant, err
}

// handOut hands out and offers those actions that the grant of a batch covers and that the batch has not handed
// out, at most the given number of chunks, or all of them if chunks is 0. It reports whether more actions may be
// left.
func (f *Fanout) handOut(ctx context.Context, id string, m map[string]string, holds, chunks int) (more bool, err error) {
	k := keys.KeysOf(id)
	for n := 0; chunks == 0 || n < chunks; n++ {
		answer, err := f.db.Run(ctx, Steps.HandOut, []string{k.Meta, k.State}, m["grant"], holds, tasks.FanOutChunk)
		if err != nil {
			return false, fmt.Errorf("hand out actions: %w", err)
		}
		if len(answer) == 1 {
			return false, nil
		}
		crash.At(crash.HandedOut)
		indexes := make([]int, len(answer)-1)
		for i, index := range answer[1:] {
			indexes[i] = int(rdb.Atoi(index))
		}
		if err := f.tasks.Offer(ctx, tasks.FlowOf(id, m), tasks.RangesOf(indexes)); err != nil {
			return false, err
		}
		crash.At(crash.HandedOffered)
		goesOn, err := f.recordProgress(ctx, id, m["grant"], int(rdb.Atoi(answer[0])))
		if err != nil {
			return false, err
		}
		if !goesOn {
			f.tasks.Retract(ctx, tasks.FlowOf(id, m))
			return false, nil
		}
	}
	return true, nil
}

// RoundSize returns the number of actions that a batch with the hash m runs in its current round: all actions in
// the first round, and the retried actions in a later one.
func RoundSize(m map[string]string) int {
	if asked, retried := m["asked"]; retried {
		return int(rdb.Atoi(asked))
	}
	return int(rdb.Atoi(m["total"]))
}

// unlist removes batches from the list of throttled batches, unless a process has entered them again since at, and
// returns those that it tried to remove. Before that, it removes their grants if the limit bounds only a rate: without
// the entry, no process would find the grant. The limit itself removes other grants that have no actions in flight
// any more. A batch whose grant cannot be removed stays in the list.
func (f *Fanout) unlist(ctx context.Context, done map[string]map[string]string, at time.Time) ([]string, error) {
	ids := make([]string, 0, len(done))
	var faults []error
	for id, m := range done {
		if f.isAnyAway(ctx, keysOfLimit(m)) {
			continue
		}
		if err := f.limits.ForgetGrant(ctx, m["owner"], id, m["throttle"], m["grant"]); err != nil {
			faults = append(faults, fmt.Errorf("remove the grant of batch %s: %w", id, err))
			if f.db.Cluster == nil && rdb.IsUnavailable(err) {
				return nil, errors.Join(faults...)
			}
			continue
		}
		ids = append(ids, id)
	}
	if len(ids) == 0 {
		return nil, errors.Join(faults...)
	}
	if _, err := f.batches.Index.Unlist(ctx, keys.ThrottledKey, at, ids...); err != nil {
		return nil, errors.Join(append(faults, err)...)
	}
	return ids, errors.Join(faults...)
}
