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
)

// throttledKey lists the batches whose actions are handed out as their owners'
// limits allow.
const throttledKey = "batchd:throttled"

// Feed implements [batch.Sweeper].
func (s *Store) Feed(ctx context.Context) (waiting int, err error) {
	ids, err := s.throttled(ctx)
	if err != nil {
		return 0, err
	}
	var faults []error
	for _, id := range ids {
		// One batch that cannot be fed keeps no other waiting.
		if err := s.feed(ctx, id); err != nil {
			faults = append(faults, fmt.Errorf("feed batch %s: %w", id, err))
		}
		if len(faults) > sweepFaults {
			break
		}
	}
	return len(ids), errors.Join(faults...)
}

func (s *Store) throttled(ctx context.Context) ([]string, error) {
	ctx, cancel := s.within(ctx)
	defer cancel()
	ids, err := s.rdb.ZRangeByLex(ctx, throttledKey, &redis.ZRangeBy{Min: "-", Max: "+"}).Result()
	return ids, mapError(ctx, err)
}

// metaAt reads the hash of a batch, and a time at or shortly before which it was so.
func (s *Store) metaAt(ctx context.Context, id string) (map[string]string, time.Time, error) {
	ctx, cancel := s.within(ctx)
	defer cancel()
	pipe := s.rdb.Pipeline()
	at, meta := pipe.Time(ctx), pipe.HGetAll(ctx, keysOf(id).meta)
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, time.Time{}, mapError(ctx, err)
	}
	return meta.Val(), at.Val(), nil
}

// feed hands out as many of a batch's actions as its owner's limit admits now. Any number
// of processes may do it at the same time, and any may die on the way: what the limit
// gives is in the grant before it is handed out, what is handed out in the batch
// before its task is enqueued, and each of these three steps goes on from what it finds.
func (s *Store) feed(ctx context.Context, id string) error {
	m, at, err := s.metaAt(ctx, id)
	if err != nil {
		return err
	}
	given, upTo := int(atoi(m["given"])), askedOf(m)
	handed, enqueued := int(atoi(m["handed"])), int(atoi(m["enqueued"]))
	if len(m) == 0 {
		staged, err := s.staged(ctx, []string{id})
		if err != nil || staged[id] {
			return err // it is about to be committed
		}
	}
	switch {
	case len(m) == 0, m["throttle"] == "", m["ending"] != "", m["ended"] != "", given >= upTo && enqueued >= handed:
		return s.dismiss(ctx, id, m, at)
	}
	if enqueued < handed { // another process has died after it took them
		if err := s.enqueueAllWaiting(ctx, id, m, enqueued, handed); err != nil {
			return err
		}
		if _, err := s.noteProgress(ctx, id, m["grant"], handed); err != nil {
			return err
		}
	}
	if given >= upTo {
		return nil
	}
	var limit batch.Limit
	if err := json.Unmarshal([]byte(m["throttle"]), &limit); err != nil {
		return fmt.Errorf("read the limit: %w", err)
	}
	grant, err := s.admit(ctx, asked{owner: m["owner"], grant: grantName(id, m["grant"]), n: upTo, limit: limit, partial: true, kept: true})
	if err != nil || grant.holds <= given {
		return err
	}
	crash.At(crash.Fed)
	return s.handOut(ctx, id, m, grant.holds)
}

// handOut enqueues those actions that a batch's grant covers and that are not handed out.
func (s *Store) handOut(ctx context.Context, id string, m map[string]string, holds int) error {
	k := keysOf(id)
	for {
		answer, err := s.run(ctx, s.steps.handout, []string{k.meta, k.state}, m["grant"], holds, fanOutChunk)
		if err != nil {
			return fmt.Errorf("hand out actions: %w", err)
		}
		if len(answer) == 1 {
			return nil
		}
		crash.At(crash.HandedOut)
		indexes := make([]int, len(answer)-1)
		for i, index := range answer[1:] {
			indexes[i] = int(atoi(index))
		}
		if _, err := s.enqueue(ctx, id, routeOf(m), m["round"], indexes); err != nil {
			return err
		}
		crash.At(crash.HandedEnqueued)
		more, err := s.noteProgress(ctx, id, m["grant"], int(atoi(answer[0])))
		if err != nil || !more {
			return err
		}
	}
}

// askedOf returns the number of actions that a batch's round is to hand out.
func askedOf(m map[string]string) int {
	if asked, retried := m["asked"]; retried {
		return int(atoi(asked))
	}
	return int(atoi(m["total"]))
}

// dismiss takes a batch off the list, unless it was entered again. A grant of which nothing
// is in flight any more, or which bounds only a rate, is not needed any more.
func (s *Store) dismiss(ctx context.Context, id string, m map[string]string, at time.Time) error {
	if _, err := s.unlist(ctx, throttledKey, at, id); err != nil {
		return err
	}
	return s.forgetGrant(ctx, m["owner"], id, m["throttle"], m["grant"])
}

// forgetGrant removes a grant that bounds only a rate. Those that bound what is in flight
// are removed by whoever looks at them next.
func (s *Store) forgetGrant(ctx context.Context, owner, id, throttle, token string) error {
	var limit batch.Limit
	if owner == "" || json.Unmarshal([]byte(throttle), &limit) != nil || limit.Concurrent > 0 {
		return nil
	}
	ctx, cancel := s.within(ctx)
	defer cancel()
	return mapError(ctx, s.rdb.HDel(ctx, limitKeys(owner, limit.Scope)[1], grantName(id, token)).Err())
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
		if _, err := s.run(ctx, s.steps.reopen, []string{list, madeAgain(list)}, id, millis(listHold)); err != nil {
			return fmt.Errorf("enter the batch into %s: %w", list, err)
		}
	}
	return nil
}

// unlist removes from a list batches that were looked at after that time, unless their
// entries were made again.
func (s *Store) unlist(ctx context.Context, list string, at time.Time, ids ...string) (removed int, err error) {
	args := []any{strconv.FormatInt(at.UnixMilli(), 10), millis(listHold)}
	for _, id := range ids {
		args = append(args, id)
	}
	answer, err := s.run(ctx, s.steps.unlist, []string{list, madeAgain(list)}, args...)
	if err != nil {
		return 0, fmt.Errorf("remove batches from %s: %w", list, err)
	}
	return int(atoi(answer[0])), nil
}
