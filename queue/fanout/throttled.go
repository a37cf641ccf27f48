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

// releaseChunks is the most chunks of a batch that a round of the feeder hands out at a time.
const releaseChunks = 10

// readHeads reads the hashes of batches in one exchange. A batch that could not be read has
// none, and err says why, unless its node is known to be away.
func (s *Fanout) readHeads(ctx context.Context, ids []string) (heads map[string]map[string]string, err error) {
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	pipe := s.db.Client.Pipeline()
	cmds := make([]*redis.MapStringStringCmd, len(ids))
	for i, id := range ids {
		if key := keys.KeysOf(id).Meta; !s.db.IsAway(ctx, key) {
			cmds[i] = pipe.HGetAll(ctx, key)
		}
	}
	s.db.Send(ctx, pipe)
	heads = make(map[string]map[string]string, len(ids))
	for i, id := range ids {
		if cmds[i] == nil {
			continue
		}
		if fault := cmds[i].Err(); fault != nil {
			err = fmt.Errorf("read the head of batch %s: %w", id, rdb.MapError(ctx, fault))
			s.db.NoteAway(ctx, keys.KeysOf(id).Meta, err)
			continue
		}
		heads[id] = cmds[i].Val()
	}
	return heads, err
}

// release hands out as many of a batch's actions as its owner's limit admits now. Any number
// of processes may do it at the same time, and any may die on the way: what the limit
// gives is in the grant before it is handed out, what is handed out in the batch
// before its task is enqueued, and each of these three steps goes on from what it finds.
func (s *Fanout) release(ctx context.Context, id string) error {
	heads, err := s.readHeads(ctx, []string{id})
	m, read := heads[id]
	if !read {
		return err // or its node is away, and the sweeper feeds it later
	}
	state, err := s.releasable(ctx, id, m)
	if err != nil || state == releaseStaged || state == releaseDone {
		return err // the sweeper takes it off the list
	}
	if err := s.completeHandOut(ctx, id, m); err != nil || state == releaseGiven {
		return err
	}
	grant, err := s.askFor(ctx, id, m)
	if err != nil || grant.Holds <= int(rdb.Atoi(m["given"])) {
		return err
	}
	_, err = s.handOut(ctx, id, m, grant.Holds, 0)
	return err
}

// releaseState says what there is to be done with a throttled batch.
type releaseState int

const (
	releaseStaged releaseState = iota // it is about to be committed
	releaseDone                       // nothing: it has ended, is ending, is gone, or all of it is handed out
	releaseGiven                      // its limit has given all of it, and not all of its tasks exist
	releaseWaits                      // its limit has not given all of it
)

// releasable says what there is to be done with a throttled batch, by its hash.
func (s *Fanout) releasable(ctx context.Context, id string, m map[string]string) (releaseState, error) {
	given, upTo := int(rdb.Atoi(m["given"])), RoundSize(m)
	if len(m) == 0 {
		staged, err := s.batches.Index.Staged(ctx, []string{id})
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

// completeHandOut enqueues the actions that another process handed out before it died.
func (s *Fanout) completeHandOut(ctx context.Context, id string, m map[string]string) error {
	handed, enqueued := int(rdb.Atoi(m["handed"])), int(rdb.Atoi(m["enqueued"]))
	if enqueued >= handed {
		return nil
	}
	if err := s.OfferWaiting(ctx, tasks.FlowOf(id, m), enqueued, handed); err != nil {
		return err
	}
	_, err := s.noteProgress(ctx, id, m["grant"], handed)
	return err
}

// askFor asks the owner's limit for as many of a batch's actions as there is room for.
func (s *Fanout) askFor(ctx context.Context, id string, m map[string]string) (*limits.Given, error) {
	var limit batch.Limit
	if err := json.Unmarshal([]byte(m["throttle"]), &limit); err != nil {
		return nil, fmt.Errorf("read the limit: %w", err)
	}
	grant, err := s.limits.Admit(ctx, limits.Asked{Owner: m["owner"], Grant: limits.GrantName(id, m["grant"]), N: RoundSize(m), Limit: limit, Partial: true, Kept: true})
	if err == nil && grant.Holds > int(rdb.Atoi(m["given"])) {
		crash.At(crash.Fed)
	}
	return grant, err
}

// handOut enqueues those actions that a batch's grant covers and that are not handed out, at
// most so many chunks of them unless that is zero. It reports whether there may be more.
func (s *Fanout) handOut(ctx context.Context, id string, m map[string]string, holds, chunks int) (more bool, err error) {
	k := keys.KeysOf(id)
	for n := 0; chunks == 0 || n < chunks; n++ {
		answer, err := s.db.Run(ctx, Steps.HandOut, []string{k.Meta, k.State}, m["grant"], holds, tasks.FanOutChunk)
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
		if err := s.tasks.Offer(ctx, tasks.FlowOf(id, m), tasks.RangesOf(indexes)); err != nil {
			return false, err
		}
		crash.At(crash.HandedOffered)
		goesOn, err := s.noteProgress(ctx, id, m["grant"], int(rdb.Atoi(answer[0])))
		if err != nil {
			return false, err
		}
		if !goesOn {
			s.tasks.Retract(ctx, tasks.FlowOf(id, m))
			return false, nil
		}
	}
	return true, nil
}

// RoundSize returns the number of actions that a batch's round is to hand out.
func RoundSize(m map[string]string) int {
	if asked, retried := m["asked"]; retried {
		return int(rdb.Atoi(asked))
	}
	return int(rdb.Atoi(m["total"]))
}

// unlist takes batches off the list, unless they were entered again. A grant of which nothing
// is in flight any more, or which bounds only a rate, is not needed any more.
func (s *Fanout) unlist(ctx context.Context, batches map[string]map[string]string, at time.Time) error {
	ids := make([]string, 0, len(batches))
	for id := range batches {
		ids = append(ids, id)
	}
	if _, err := s.batches.Index.Unlist(ctx, keys.ThrottledKey, at, ids...); err != nil {
		return err
	}
	var faults []error
	for id, m := range batches {
		faults = append(faults, s.limits.ForgetGrant(ctx, m["owner"], id, m["throttle"], m["grant"]))
	}
	return errors.Join(faults...)
}
