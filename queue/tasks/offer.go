package tasks

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
)

// offerRanges is the most ranges of indexes offered in one exchange: Lua passes on no more than some
// thousand arguments.
const offerRanges = 1000

// Flow is a batch in a fair queue, in one of its rounds. Its waiting actions have no tasks: the poll that takes
// an action creates its task. See lua/fair.lua.
type Flow struct {
	Owner, ID string
	Round     string // empty in the first round
	Route     Route
}

// FlowOf returns the flow of a batch from the fields of its meta hash.
func FlowOf(id string, m map[string]string) Flow { return Flow{m["owner"], id, m["round"], RouteOf(m)} }

// IndexRange is the range of the indexes from From to To-1.
type IndexRange struct{ From, To int }

// RangesOf returns the ranges of indexes in ascending order.
func RangesOf(indexes []int) []IndexRange {
	var ranges []IndexRange
	for _, i := range indexes {
		if n := len(ranges); n > 0 && ranges[n-1].To == i {
			ranges[n-1].To++
		} else {
			ranges = append(ranges, IndexRange{i, i + 1})
		}
	}
	return ranges
}

// keysIn returns the keys of a fair queue that a step on the flow uses. A step declares all of them: while a
// cluster moves the slot, it refuses a step that declares a key which has moved, but it breaks off a step
// that uses such a key without having declared it.
func (f Flow) keysIn(queue string) []string {
	prefix := FairPrefix(queue)
	return []string{
		prefix + "m", prefix + "o", prefix + "p", prefix + "n",
		prefix + "o:" + f.Owner, prefix + "b:" + f.ID, prefix + "s:" + f.Owner, prefix + "g", prefix + "v",
	}
}

// Offer adds actions to the fair queues, and wakes the workers. The ranges must be in ascending order. Actions
// that wait already are left out; see lua/offer.lua.
func (q *Queues) Offer(ctx context.Context, f Flow, ranges []IndexRange) error {
	for part := range slices.Chunk(ranges, offerRanges) {
		if err := q.offerOnce(ctx, f, part); err != nil {
			return err
		}
	}
	return nil
}

func (q *Queues) offerOnce(ctx context.Context, f Flow, ranges []IndexRange) error {
	ctx, cancel := q.db.WithTimeout(ctx)
	defer cancel()
	pipe := q.db.Client.Pipeline()
	sent := q.AddOffer(ctx, pipe, f, ranges, "", true)
	if err := sent.send(ctx, q, pipe); err != nil {
		return fmt.Errorf("offer actions: %w", err)
	}
	return nil
}

// AddOffer adds the steps that offer actions to a pipeline. If meta is not empty, they do nothing when the
// batch with that meta key does not exist. If wake is set, they wake the workers of other processes.
func (q *Queues) AddOffer(ctx context.Context, pipe redis.Pipeliner, f Flow, ranges []IndexRange, meta string, wake bool) *QueueSteps {
	sent := newQueueSteps(Steps.Offer)
	upTo := ranges[len(ranges)-1].To
	for queue, texts := range rangesByQueue(q, f, ranges) {
		wakeup := ""
		if wake {
			wakeup = q.Wakeup(queue)
		}
		names := f.keysIn(queue)
		if meta != "" {
			names = append(names, meta)
		}
		sent.add(ctx, pipe, queue, names, append([]any{FairPrefix(queue), f.Owner, f.ID, f.Round, upTo, keys.WorkChannel, wakeup}, texts...))
	}
	return sent
}

// rangesByQueue returns the ranges of each queue as lua/offer.lua takes them.
func rangesByQueue(q *Queues, f Flow, ranges []IndexRange) map[string][]any {
	texts := make(map[string][]any)
	for _, r := range ranges {
		text := strconv.Itoa(r.From) + "-" + strconv.Itoa(r.To)
		if q.shards == 1 {
			queue := q.QueueOf(f.Route, f.ID, r.From)
			texts[queue] = append(texts[queue], text)
			continue
		}
		first, last := r.From/ShardRun, (r.To-1)/ShardRun
		for run := first; run <= last && run < first+ClusterShards; run++ {
			queue := q.QueueOf(f.Route, f.ID, run*ShardRun)
			texts[queue] = append(texts[queue], text+"-"+strconv.Itoa(run%ClusterShards))
		}
	}
	return texts
}

// Retract removes the waiting actions of a batch that has ended from the fair queues. If that fails, the
// actions get tasks that end at once, since the ledger does not begin the actions of such a batch.
func (q *Queues) Retract(ctx context.Context, f Flow) {
	if f.Route.Target == "" {
		return
	}
	ctx, cancel := q.db.WithTimeout(ctx)
	defer cancel()
	pipe := q.db.Client.Pipeline()
	queues := q.QueuesOf(f.Route)
	steps := make([]*redis.Cmd, len(queues))
	for i, queue := range queues {
		steps[i] = pipe.EvalSha(ctx, Steps.Retract.Hash(), f.keysIn(queue), FairPrefix(queue), f.ID, f.Round)
	}
	q.db.Send(ctx, pipe)
	for _, step := range steps {
		if err := q.db.AnswerOf(ctx, Steps.Retract, step).Err(); err != nil {
			q.log.DebugContext(ctx, "actions of an ended batch still wait", "batch", f.ID, "error", rdb.MapError(ctx, err))
		}
	}
}

// WaitsIn returns the queues in which actions of a batch wait for their tasks.
func (q *Queues) WaitsIn(ctx context.Context, f Flow) (map[string]bool, error) {
	ctx, cancel := q.db.WithTimeout(ctx)
	defer cancel()
	pipe := q.db.Client.Pipeline()
	flows, owners := make(map[string]*redis.StringCmd), make(map[string]*redis.FloatCmd)
	for _, queue := range q.QueuesOf(f.Route) {
		prefix := FairPrefix(queue)
		flows[queue], owners[queue] = pipe.HGet(ctx, prefix+"m", f.ID), pipe.ZScore(ctx, prefix+"o", f.Owner)
	}
	q.db.Send(ctx, pipe)
	waits := make(map[string]bool, len(flows))
	for queue, cmd := range flows {
		packed, err := cmd.Result()
		for _, err := range []error{err, owners[queue].Err()} {
			if err != nil && !errors.Is(err, redis.Nil) {
				return nil, fmt.Errorf("look for waiting actions: %w", rdb.MapError(ctx, err))
			}
		}
		round, _, found := strings.Cut(packed, "|")
		// A later round can wait if Redis has forgotten the retry that offered it.
		waits[queue] = found && owners[queue].Err() == nil && roundNumber(round) >= roundNumber(f.Round)
	}
	return waits, nil
}

// roundNumber returns the number of a round; the first is the empty one.
func roundNumber(round string) int64 { return max(1, rdb.Atoi(round)) }

// FlowOfBatch returns the flow of a batch from the answer of a step that changed it: owner, target, lane,
// round. Without these it returns the zero Flow, which [Queues.Retract] ignores.
func FlowOfBatch(id string, answer []string) Flow {
	if len(answer) < 4 {
		return Flow{}
	}
	return Flow{answer[0], id, answer[3], Route{answer[1], batch.Lane(answer[2])}}
}

// WaitingEverywhere returns the number of actions that wait for their tasks.
func (q *Queues) WaitingEverywhere(ctx context.Context) (int, error) {
	queues, err := q.TaskQueues(ctx)
	if err != nil || len(queues) == 0 {
		return 0, err
	}
	ctx, cancel := q.db.WithTimeout(ctx)
	defer cancel()
	pipe := q.db.Client.Pipeline()
	counts := make([]*redis.StringCmd, len(queues))
	for i, queue := range queues {
		counts[i] = pipe.Get(ctx, FairPrefix(queue)+"n")
	}
	q.db.Send(ctx, pipe)
	waiting := 0
	for _, count := range counts {
		if err := count.Err(); err != nil && !errors.Is(err, redis.Nil) {
			return 0, fmt.Errorf("count waiting actions: %w", rdb.MapError(ctx, err))
		}
		waiting += int(rdb.Atoi(count.Val()))
	}
	return waiting, nil
}
