package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/crash"
)

const (
	// sweepPage is the number of open batches looked at in one exchange.
	sweepPage = 200
	// sweepFaults is the most faults after which a round goes on.
	sweepFaults = 10
	// fanOutPatience is how long a fan-out may stand still before the sweeper
	// takes it over.
	fanOutPatience = 10 * time.Second
	// overdueAfter is how long after the deadline an action may be in flight. It is
	// well beyond what the longest attempt takes, and below lua/lib.lua's GRACE.
	overdueAfter = 6 * time.Hour
	// sweepLease is how long one process is the sweeper without saying so again.
	sweepLease = 15 * time.Second
)

// Sweep implements [batch.Sweeper].
func (s *Store) Sweep(ctx context.Context, worker string) (swept batch.Swept, ok bool, err error) {
	if ok, err = s.electSweeper(ctx, worker); !ok {
		return swept, false, err
	}
	s.stalls.nextRound()
	var faults []error
	cursor := "-"
	for {
		ids, err := s.sweepPage(ctx, cursor)
		if err != nil {
			return swept, true, err
		}
		swept.Open += len(ids.order)
		if err := s.closeEntries(ctx, ids, &swept); err != nil {
			faults = append(faults, err)
		}
		for _, id := range ids.order {
			if ids.closed(id) {
				continue
			}
			// One batch that cannot be mended keeps no other from it.
			if err := s.sweepBatch(ctx, id, ids.fields[id], ids.at, &swept); err != nil {
				faults = append(faults, fmt.Errorf("sweep batch %s: %w", id, err))
			}
			crash.At(crash.Sweeping)
		}
		if len(ids.order) < sweepPage || len(faults) > sweepFaults {
			return swept, true, errors.Join(append(faults, s.adoptLost(ctx, &swept))...)
		}
		cursor = "(" + ids.order[len(ids.order)-1]
		if ok, err = s.electSweeper(ctx, worker); !ok {
			return swept, true, err
		}
	}
}

// adoptLost puts back tasks that nobody holds. It takes a moment, so it is done once for
// all batches that stand still and all queues of which a worker missed what it took.
func (s *Store) adoptLost(ctx context.Context, swept *batch.Swept) error {
	queues := s.stalls.queues
	var notes []string
	var fault error
	if swept.Open > 0 {
		notes, fault = s.members(ctx, lostKey)
	}
	for _, note := range notes {
		queue, _, _ := strings.Cut(note, " ")
		queues = append(queues, queue)
	}
	if len(queues) == 0 {
		return fault
	}
	slices.Sort(queues)
	found, err := s.adopt(ctx, slices.Compact(queues))
	swept.Lost += found
	if err == nil {
		err = s.forgetLost(ctx, notes)
	}
	return errors.Join(fault, err)
}

// electSweeper makes the worker the sweeper, or says that it still is.
func (s *Store) electSweeper(ctx context.Context, worker string) (bool, error) {
	ctx, cancel := s.within(ctx)
	defer cancel()
	answer, err := s.steps.claim.Run(ctx, s.rdb, []string{sweeperKey}, "", worker, millis(sweepLease)).Text()
	if err != nil {
		return false, mapError(ctx, err)
	}
	return answer == worker, nil
}

// now is the server's time: deadlines are by its clock alone.
func (s *Store) now(ctx context.Context) (time.Time, error) {
	ctx, cancel := s.within(ctx)
	defer cancel()
	now, err := s.rdb.Time(ctx).Result()
	return now, mapError(ctx, err)
}

// sweepFields are those of the meta hash that a round looks at.
var sweepFields = []string{"status", "enqueued", "total", "fanned", "created", "expires", "outbox", "target", "lane", "ending", "throttle", "pending", "round", "asked", "given"}

type openPage struct {
	at     time.Time // before the batches were looked at
	order  []string
	fields map[string]map[string]string
	staged map[string]bool // of those without a batch
}

func (s *Store) sweepPage(ctx context.Context, cursor string) (*openPage, error) {
	ctx, cancel := s.within(ctx)
	defer cancel()
	list := s.rdb.Pipeline()
	at, listed := list.Time(ctx), list.ZRangeByLex(ctx, openKey, &redis.ZRangeBy{Min: cursor, Max: "+", Count: sweepPage})
	if _, err := list.Exec(ctx); err != nil {
		return nil, mapError(ctx, err)
	}
	ids := listed.Val()
	cmds := make([]*redis.SliceCmd, len(ids))
	if _, err := s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, id := range ids {
			cmds[i] = p.HMGet(ctx, keysOf(id).meta, sweepFields...)
		}
		return nil
	}); err != nil {
		return nil, mapError(ctx, err)
	}
	page := &openPage{at: at.Val(), order: ids, fields: make(map[string]map[string]string, len(ids))}
	for i, id := range ids {
		m := make(map[string]string, len(sweepFields))
		for j, v := range cmds[i].Val() {
			if text, ok := v.(string); ok {
				m[sweepFields[j]] = text
			}
		}
		page.fields[id] = m
	}
	var bare []string
	for _, id := range ids {
		if page.fields[id]["status"] == "" {
			bare = append(bare, id)
		}
	}
	var err error
	page.staged, err = s.staged(ctx, bare)
	return page, err
}

func (s *Store) sweepBatch(ctx context.Context, id string, m map[string]string, now time.Time, swept *batch.Swept) error {
	switch status := batch.Status(m["status"]); {
	case status == "": // an upload that is about to commit
		return nil
	case status.Terminal():
		swept.Notified++
		return s.tell(ctx, id, int(atoi(m["outbox"])))
	case m["ending"] == "" && now.After(fromMillis(m["expires"])):
		swept.Expired++
		return s.expire(ctx, id)
	case now.After(fromMillis(m["expires"]).Add(overdueAfter)):
		swept.Expired++
		return s.overdue(ctx, id)
	}
	stalled := max(atoi(m["fanned"]), atoi(m["created"]))
	f := fanOut{id: id, route: routeOf(m), from: int(atoi(m["enqueued"])), total: int(atoi(m["total"]))}
	if m["throttle"] != "" && m["ending"] == "" && int(atoi(m["pending"])) == askedOf(m)-int(atoi(m["given"])) {
		return nil // it waits for its owner's limit, and nothing of it is in flight
	}
	if f.from >= f.total || m["throttle"] != "" {
		return s.mendStall(ctx, id, m, now, swept)
	}
	if m["ending"] != "" || now.Sub(time.UnixMilli(stalled)) < fanOutPatience {
		return nil
	}
	swept.Resumed++
	return s.fanOut(ctx, f)
}

// closed reports whether there is nothing to be looked after in an entry: its batch has
// ended and its webhook is on its way, or it was deleted, has expired, or was an upload
// that came to nothing.
func (p *openPage) closed(id string) bool {
	m := p.fields[id]
	status := batch.Status(m["status"])
	return status.Terminal() && m["outbox"] == "" || status == "" && !p.staged[id]
}

// closeEntries removes the entries in which there is nothing to be looked after.
func (s *Store) closeEntries(ctx context.Context, page *openPage, swept *batch.Swept) error {
	var ids []string
	for _, id := range page.order {
		if page.closed(id) {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	removed, err := s.unlist(ctx, openKey, page.at, ids...)
	swept.Closed += removed
	return err
}

// Resign implements [batch.Sweeper]. A process that cannot say so is succeeded
// when its lease ends.
func (s *Store) Resign(ctx context.Context, worker string) error {
	_, err := s.run(ctx, s.steps.resign, []string{sweeperKey}, worker)
	return err
}
