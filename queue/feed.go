package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/crash"
	"github.com/batchd/batchd/queue/rdb"
)

// throttledKey lists the batches whose actions are handed out as their owners'
// limits allow.
const throttledKey = "batchd:throttled"

// feedChunks is the most chunks of a batch that a round of the feeder hands out at a time.
const feedChunks = 10

// readHeads reads the hashes of batches in one exchange. A batch that could not be read has
// none, and err says why, unless its node is known to be away.
func (s *Store) readHeads(ctx context.Context, ids []string) (heads map[string]map[string]string, err error) {
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	pipe := s.db.Client.Pipeline()
	cmds := make([]*redis.MapStringStringCmd, len(ids))
	for i, id := range ids {
		if key := keysOf(id).meta; !s.db.IsAway(ctx, key) {
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
			s.db.NoteAway(ctx, keysOf(id).meta, err)
			continue
		}
		heads[id] = cmds[i].Val()
	}
	return heads, err
}

// feed hands out as many of a batch's actions as its owner's limit admits now. Any number
// of processes may do it at the same time, and any may die on the way: what the limit
// gives is in the grant before it is handed out, what is handed out in the batch
// before its task is enqueued, and each of these three steps goes on from what it finds.
func (s *Store) feed(ctx context.Context, id string) error {
	heads, err := s.readHeads(ctx, []string{id})
	m, read := heads[id]
	if !read {
		return err // or its node is away, and the sweeper feeds it later
	}
	state, err := s.feedable(ctx, id, m)
	if err != nil || state == feedStaged || state == feedDone {
		return err // the sweeper takes it off the list
	}
	if err := s.completeHandOut(ctx, id, m); err != nil || state == feedGiven {
		return err
	}
	grant, err := s.askFor(ctx, id, m)
	if err != nil || grant.holds <= int(rdb.Atoi(m["given"])) {
		return err
	}
	_, err = s.handOut(ctx, id, m, grant.holds, 0)
	return err
}

// feedState says what there is to be done with a throttled batch.
type feedState int

const (
	feedStaged feedState = iota // it is about to be committed
	feedDone                    // nothing: it has ended, is ending, is gone, or all of it is handed out
	feedGiven                   // its limit has given all of it, and not all of its tasks exist
	feedWaits                   // its limit has not given all of it
)

// feedable says what there is to be done with a throttled batch, by its hash.
func (s *Store) feedable(ctx context.Context, id string, m map[string]string) (feedState, error) {
	given, upTo := int(rdb.Atoi(m["given"])), askedOf(m)
	if len(m) == 0 {
		staged, err := s.staged(ctx, []string{id})
		if err != nil || staged[id] {
			return feedStaged, err
		}
	}
	switch {
	case len(m) == 0, m["throttle"] == "", m["ending"] != "", m["ended"] != "":
		return feedDone, nil
	case given < upTo:
		return feedWaits, nil
	case rdb.Atoi(m["enqueued"]) >= rdb.Atoi(m["handed"]):
		return feedDone, nil
	}
	return feedGiven, nil
}

// completeHandOut enqueues the actions that another process handed out before it died.
func (s *Store) completeHandOut(ctx context.Context, id string, m map[string]string) error {
	handed, enqueued := int(rdb.Atoi(m["handed"])), int(rdb.Atoi(m["enqueued"]))
	if enqueued >= handed {
		return nil
	}
	if err := s.offerWaiting(ctx, flowOf(id, m), enqueued, handed); err != nil {
		return err
	}
	_, err := s.noteProgress(ctx, id, m["grant"], handed)
	return err
}

// askFor asks the owner's limit for as many of a batch's actions as there is room for.
func (s *Store) askFor(ctx context.Context, id string, m map[string]string) (*given, error) {
	var limit batch.Limit
	if err := json.Unmarshal([]byte(m["throttle"]), &limit); err != nil {
		return nil, fmt.Errorf("read the limit: %w", err)
	}
	grant, err := s.admit(ctx, asked{owner: m["owner"], grant: grantName(id, m["grant"]), n: askedOf(m), limit: limit, partial: true, kept: true})
	if err == nil && grant.holds > int(rdb.Atoi(m["given"])) {
		crash.At(crash.Fed)
	}
	return grant, err
}

// handOut enqueues those actions that a batch's grant covers and that are not handed out, at
// most so many chunks of them unless that is zero. It reports whether there may be more.
func (s *Store) handOut(ctx context.Context, id string, m map[string]string, holds, chunks int) (more bool, err error) {
	k := keysOf(id)
	for n := 0; chunks == 0 || n < chunks; n++ {
		answer, err := s.db.Run(ctx, s.steps.handout, []string{k.meta, k.state}, m["grant"], holds, fanOutChunk)
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
		if err := s.offer(ctx, flowOf(id, m), rangesOf(indexes)); err != nil {
			return false, err
		}
		crash.At(crash.HandedOffered)
		goesOn, err := s.noteProgress(ctx, id, m["grant"], int(rdb.Atoi(answer[0])))
		if err != nil {
			return false, err
		}
		if !goesOn {
			s.retract(ctx, flowOf(id, m))
			return false, nil
		}
	}
	return true, nil
}

// askedOf returns the number of actions that a batch's round is to hand out.
func askedOf(m map[string]string) int {
	if asked, retried := m["asked"]; retried {
		return int(rdb.Atoi(asked))
	}
	return int(rdb.Atoi(m["total"]))
}

// dismiss takes batches off the list, unless they were entered again. A grant of which nothing
// is in flight any more, or which bounds only a rate, is not needed any more.
func (s *Store) dismiss(ctx context.Context, batches map[string]map[string]string, at time.Time) error {
	ids := make([]string, 0, len(batches))
	for id := range batches {
		ids = append(ids, id)
	}
	if _, err := s.unlist(ctx, throttledKey, at, ids...); err != nil {
		return err
	}
	var faults []error
	for id, m := range batches {
		faults = append(faults, s.forgetGrant(ctx, m["owner"], id, m["throttle"], m["grant"]))
	}
	return errors.Join(faults...)
}

// forgetGrant removes a grant that bounds only a rate. Those that bound what is in flight
// are removed by whoever looks at them next.
func (s *Store) forgetGrant(ctx context.Context, owner, id, throttle, token string) error {
	var limit batch.Limit
	if owner == "" || json.Unmarshal([]byte(throttle), &limit) != nil || limit.Concurrent > 0 {
		return nil
	}
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	return rdb.MapError(ctx, s.db.Client.HDel(ctx, limitKeys(owner, limit.Scope)[1], grantName(id, token)).Err())
}

// listHold is how long an entry that was made again stays in its list.
const listHold = 30 * time.Second

// madeAgain returns the key of the entries of a list that were made again, in the same slot.
func madeAgain(list string) string { return "{" + list + "}:again" }

// reopen has the sweeper look at a batch again, which has ended and is about not to have:
// the entry is made before the step, or a crash in between would leave a batch that no
// process knows of. A look at the batch that is older than the step removes nothing.
func (s *Store) reopen(ctx context.Context, id string, throttled bool) error {
	lists := []string{openKey}
	if throttled {
		lists = append(lists, throttledKey)
	}
	for _, list := range lists {
		if _, err := s.db.Run(ctx, s.steps.reopen, []string{list, madeAgain(list)}, id, rdb.Millis(listHold)); err != nil {
			return fmt.Errorf("enter the batch into %s: %w", list, err)
		}
	}
	return nil
}

// unlist removes from a list batches that were looked at after that time, unless their
// entries were made again.
func (s *Store) unlist(ctx context.Context, list string, at time.Time, ids ...string) (removed int, err error) {
	args := []any{strconv.FormatInt(at.UnixMilli(), 10), rdb.Millis(listHold)}
	for _, id := range ids {
		args = append(args, id)
	}
	answer, err := s.db.Run(ctx, s.steps.unlist, []string{list, madeAgain(list)}, args...)
	if err != nil {
		return 0, fmt.Errorf("remove batches from %s: %w", list, err)
	}
	return int(rdb.Atoi(answer[0])), nil
}
