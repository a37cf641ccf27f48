package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/rdb"
)

// offerRanges is the most ranges of indexes offered in one exchange: Lua passes on no more than some
// thousand arguments.
const offerRanges = 1000

// flow is what waits of a batch, in one round of it: its actions have no tasks until a worker
// is about to take them. See lua/fair.lua.
type flow struct {
	owner, id string
	round     string // empty in the first round
	route     route
}

// flowOf is that of a batch, by fields of its meta hash.
func flowOf(id string, m map[string]string) flow { return flow{m["owner"], id, m["round"], routeOf(m)} }

// indexRange has the indexes of neighbours, the last one not included.
type indexRange struct{ from, to int }

// rangesOf returns the ranges of indexes, which are in ascending order.
func rangesOf(indexes []int) []indexRange {
	var ranges []indexRange
	for _, i := range indexes {
		if n := len(ranges); n > 0 && ranges[n-1].to == i {
			ranges[n-1].to++
		} else {
			ranges = append(ranges, indexRange{i, i + 1})
		}
	}
	return ranges
}

// fairPrefix is what the keys of the fair queue of an asynq queue begin with. They are in the slot
// of asynq's own.
func fairPrefix(queue string) string { return "batchd:fair:{" + queue + "}:" }

// keysIn returns the keys of a fair queue that a step on the flow uses. All of them are declared: while a cluster
// moves the slot, it refuses a step some of whose keys are elsewhere, and would otherwise break it off in the middle.
func (f flow) keysIn(queue string) []string {
	prefix := fairPrefix(queue)
	return []string{
		prefix + "m", prefix + "o", prefix + "p", prefix + "n",
		prefix + "o:" + f.owner, prefix + "b:" + f.id, prefix + "s:" + f.owner, prefix + "g", prefix + "v",
	}
}

// offer lets actions wait for their tasks, and wakes the workers. The ranges are in ascending order. Actions
// that wait already are left out; see lua/offer.lua.
func (s *Store) offer(ctx context.Context, f flow, ranges []indexRange) error {
	for part := range slices.Chunk(ranges, offerRanges) {
		if err := s.offerOnce(ctx, f, part); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) offerOnce(ctx context.Context, f flow, ranges []indexRange) error {
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	pipe := s.db.Client.Pipeline()
	sent := s.addOffer(ctx, pipe, f, ranges, "", true)
	s.db.Send(ctx, pipe)
	defer func() {
		for queue := range sent.cmds {
			s.wakeLocal(queue) // even if only the answer was lost
		}
	}()
	if err := sent.read(ctx, s.db); err != nil {
		return fmt.Errorf("offer actions: %w", err)
	}
	return nil
}

// addOffer adds the steps that offer actions to a pipeline. They do nothing if the batch with that
// meta key does not exist. If tell is set, they wake workers elsewhere.
func (s *Store) addOffer(ctx context.Context, pipe redis.Pipeliner, f flow, ranges []indexRange, meta string, tell bool) *queueSteps {
	sent := newQueueSteps(s.steps.offer)
	upTo := ranges[len(ranges)-1].to
	for queue, texts := range s.rangesByQueue(f, ranges) {
		wakeup := ""
		if tell {
			wakeup = s.word(queue)
		}
		keys := f.keysIn(queue)
		if meta != "" {
			keys = append(keys, meta)
		}
		sent.add(ctx, pipe, queue, keys, append([]any{fairPrefix(queue), f.owner, f.id, f.round, upTo, workChannel, wakeup}, texts...))
	}
	return sent
}

// rangesByQueue returns the ranges of each queue as lua/offer.lua takes them.
func (s *Store) rangesByQueue(f flow, ranges []indexRange) map[string][]any {
	texts := make(map[string][]any)
	for _, r := range ranges {
		text := strconv.Itoa(r.from) + "-" + strconv.Itoa(r.to)
		if s.shards == 1 {
			queue := s.queueOf(f.route, f.id, r.from)
			texts[queue] = append(texts[queue], text)
			continue
		}
		first, last := r.from/shardRun, (r.to-1)/shardRun
		for run := first; run <= last && run < first+clusterShards; run++ {
			queue := s.queueOf(f.route, f.id, run*shardRun)
			texts[queue] = append(texts[queue], text+"-"+strconv.Itoa(run%clusterShards))
		}
	}
	return texts
}

// retract takes back what waits of a batch that waits no more. If that fails, its actions get tasks
// that end when they are begun.
func (s *Store) retract(ctx context.Context, f flow) {
	if f.route.target == "" {
		return
	}
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	pipe := s.db.Client.Pipeline()
	queues := s.queuesOf(f.route)
	steps := make([]*redis.Cmd, len(queues))
	for i, queue := range queues {
		steps[i] = pipe.EvalSha(ctx, s.steps.retract.Hash(), f.keysIn(queue), fairPrefix(queue), f.id, f.round)
	}
	s.db.Send(ctx, pipe)
	for _, step := range steps {
		if err := s.db.AnswerOf(ctx, s.steps.retract, step).Err(); err != nil {
			s.log.DebugContext(ctx, "actions of an ended batch still wait", "batch", f.id, "error", rdb.MapError(ctx, err))
		}
	}
}

// waitsIn returns the queues in which actions of a batch wait for their tasks.
func (s *Store) waitsIn(ctx context.Context, f flow) (map[string]bool, error) {
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	pipe := s.db.Client.Pipeline()
	flows, owners := make(map[string]*redis.StringCmd), make(map[string]*redis.FloatCmd)
	for _, queue := range s.queuesOf(f.route) {
		prefix := fairPrefix(queue)
		flows[queue], owners[queue] = pipe.HGet(ctx, prefix+"m", f.id), pipe.ZScore(ctx, prefix+"o", f.owner)
	}
	s.db.Send(ctx, pipe)
	waits := make(map[string]bool, len(flows))
	for queue, cmd := range flows {
		packed, err := cmd.Result()
		for _, err := range []error{err, owners[queue].Err()} {
			if err != nil && !errors.Is(err, redis.Nil) {
				return nil, fmt.Errorf("look for waiting actions: %w", rdb.MapError(ctx, err))
			}
		}
		round, _, found := strings.Cut(packed, "|")
		// What waits of a later round was offered by a retry that Redis has forgotten.
		waits[queue] = found && owners[queue].Err() == nil && roundNumber(round) >= roundNumber(f.round)
	}
	return waits, nil
}

// roundNumber returns the number of a round; the first is the empty one.
func roundNumber(round string) int64 { return max(1, rdb.Atoi(round)) }

// retractIfEnded takes back what was just offered of a batch that is ending or gone. The step that ended
// it may have taken back what waited before the offer came.
func (s *Store) retractIfEnded(ctx context.Context, f flow) {
	look, cancel := s.db.WithTimeout(ctx)
	m, err := s.db.Client.HMGet(look, keysOf(f.id).meta, "status", "ending").Result()
	cancel()
	if err == nil && (m[0] == nil || m[1] != nil) {
		s.retract(ctx, f)
	}
}

// flowOfBatch is that of a batch that a step has just changed, by its answer: owner, target, lane, round.
func flowOfBatch(id string, answer []string) flow {
	if len(answer) < 4 {
		return flow{}
	}
	return flow{answer[0], id, answer[3], route{answer[1], batch.Lane(answer[2])}}
}

// waitingEverywhere returns the number of actions that wait for their tasks.
func (s *Store) waitingEverywhere(ctx context.Context) (int, error) {
	queues, err := s.taskQueues(ctx)
	if err != nil || len(queues) == 0 {
		return 0, err
	}
	pipe := s.db.Client.Pipeline()
	counts := make([]*redis.StringCmd, len(queues))
	for i, queue := range queues {
		counts[i] = pipe.Get(ctx, fairPrefix(queue)+"n")
	}
	s.db.Send(ctx, pipe)
	waiting := 0
	for _, count := range counts {
		if err := count.Err(); err != nil && !errors.Is(err, redis.Nil) {
			return 0, fmt.Errorf("count waiting actions: %w", rdb.MapError(ctx, err))
		}
		waiting += int(rdb.Atoi(count.Val()))
	}
	return waiting, nil
}
