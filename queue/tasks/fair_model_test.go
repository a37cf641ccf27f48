package tasks_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/tasks"
)

// fairModel has the expected content of the fair queues of a lane, beside a store.
type fairModel struct {
	*bundle
	*rand.Rand
	owners []string
	flows  []*flowModel
	waits  map[string]bool // ids of the tasks of waiting actions
	held   map[string]string
	back   map[string]bool // tasks that wait in asynq's list
	lossy  bool            // keys are lost, too
	at     string
}

type flowModel struct {
	tasks.Flow
	number, total int
}

// TestAFairQueueIsWhatItsModelSays runs offers in any order and any number, polls, retractions, retries and tasks
// that are put back, and compares the queues with a model after each step. At the end polls have taken once every
// action that was offered and not retracted, and nothing is left in Redis.
func TestAFairQueueIsWhatItsModelSays(t *testing.T) {
	onStores(t, func(t *testing.T, b *bundle) {
		seeds, steps := 4, 150
		switch {
		case b.DB.Embed != nil:
			seeds = 8
		case b.DB.Cluster != nil:
			seeds, steps = 2, 60
		}
		for seed := range seeds {
			m := &fairModel{
				bundle: b, Rand: rand.New(rand.NewPCG(uint64(seed), 7)), lossy: seed%4 == 3,
				owners: []string{"me", "", "a|b:{c}", "ü ö\x00\n", "o"}, waits: map[string]bool{}, held: map[string]string{}, back: map[string]bool{},
			}
			m.play(steps)
		}
	}, "embedded", "server", "cluster")
}

// play makes some steps, and says with which one it failed.
func (m *fairModel) play(steps int) {
	defer func() {
		if m.T.Failed() {
			m.T.Log(m.at)
		}
	}()
	for step := range steps {
		m.at = fmt.Sprint("step ", step)
		m.step()
		m.check()
	}
	m.drain()
}

func (m *fairModel) step() {
	switch m.IntN(10) {
	case 0:
		id := fmt.Sprintf("b%d-%d", m.Uint32(), len(m.flows))
		f := &flowModel{Flow: tasks.Flow{Owner: m.owners[m.IntN(len(m.owners))], ID: id, Route: queuetest.Crm(batch.Bulk)}, number: 1, total: 1 + m.IntN(m.most())}
		m.flows = append(m.flows, f)
		m.offerRanges(f, []tasks.IndexRange{{From: 0, To: f.total}})
	case 1, 2:
		if f := m.any(); f != nil { // again, or parts of it in any order
			from := m.IntN(f.total)
			m.offerRanges(f, []tasks.IndexRange{{From: from, To: from + 1 + m.IntN(f.total-from)}})
		}
	case 3:
		if f := m.any(); f != nil {
			m.retractFlow(f)
		}
	case 4:
		if f := m.any(); f != nil { // a retry of some actions
			m.retractFlow(f)
			f.number++
			f.Round = fmt.Sprint(f.number)
			var indexes []int
			for i := range f.total {
				if m.IntN(3) > 0 {
					indexes = append(indexes, i)
				}
			}
			if len(indexes) > 0 {
				m.offerRanges(f, tasks.RangesOf(indexes))
			}
			if m.IntN(2) == 0 { // a late offer of an earlier round
				late := f.Flow
				if late.Round = fmt.Sprint(f.number - 1); f.number == 2 {
					late.Round = ""
				}
				if m.hasFlow(f) {
					require.NoError(m.T, m.Tasks.Offer(m.Ctx, late, []tasks.IndexRange{{From: 0, To: f.total}}))
				}
			}
		}
	case 5:
		if m.lossy {
			m.lose()
		}
	default:
		queues := m.Tasks.QueuesOf(queuetest.Crm(batch.Bulk))
		m.take(queues[m.IntN(len(queues))], 1+m.IntN(60), m.IntN(4) == 0)
	}
}

// most is the most actions of a batch: they span several runs of each shard.
func (m *fairModel) most() int { return 1 + len(m.Tasks.QueuesOf(queuetest.Crm(batch.Bulk)))*150 }

func (m *fairModel) any() *flowModel {
	if len(m.flows) == 0 {
		return nil
	}
	return m.flows[m.IntN(len(m.flows))]
}

func (f *flowModel) ids(ranges []tasks.IndexRange) (ids []string) {
	for _, r := range ranges {
		for i := r.From; i < r.To; i++ {
			ids = append(ids, tasks.TaskID(f.ID, i, f.Round))
		}
	}
	return ids
}

func (m *fairModel) offerRanges(f *flowModel, ranges []tasks.IndexRange) {
	require.NoError(m.T, m.Tasks.Offer(m.Ctx, f.Flow, ranges))
	for _, id := range f.ids(ranges) {
		m.waits[id] = true
	}
}

// hasFlow reports whether any queue has something of the flow in this round, in all queues that it uses.
func (m *fairModel) hasFlow(f *flowModel) bool {
	for _, waits := range queuetest.Must(m.Tasks.WaitsIn(m.Ctx, f.Flow)) {
		if !waits {
			return false
		}
	}
	return true
}

func (m *fairModel) retractFlow(f *flowModel) {
	m.Tasks.Retract(m.Ctx, f.Flow)
	for _, id := range f.ids([]tasks.IndexRange{{From: 0, To: f.total}}) {
		delete(m.waits, id)
	}
}

// take polls a queue, and ends some of the tasks and gives others back.
func (m *fairModel) take(queue string, want int, fifo bool) {
	before := m.queued(queue)
	pending := len(m.pendingIn(queue))
	ids, more := m.polls(queue, want, fifo)
	require.LessOrEqual(m.T, len(ids), want)
	for _, id := range ids {
		require.Empty(m.T, m.held[id], "%q is taken twice", id)
		require.True(m.T, m.back[id] || m.waits[id], "%q did not wait", id)
		if m.back[id] { // it may wait for a second task besides
			pending--
			delete(m.back, id)
		} else {
			delete(m.waits, id)
		}
		m.held[id] = queue
	}
	after := m.queued(queue)
	for id := range before {
		if !after[id] { // it was taken, or has a task, so it got no other
			require.True(m.T, m.held[id] != "" || m.back[id], "%q is lost", id)
			delete(m.waits, id)
		}
	}
	require.Equal(m.T, pending > 0 || len(after) > 0, more)
	if !more {
		require.Zero(m.T, pending+len(after), "all of it was taken")
	}
	var ended, back []string
	for id, of := range m.held {
		switch {
		case of != queue:
		case m.IntN(3) > 0:
			ended = append(ended, id)
		case m.IntN(3) == 0:
			back = append(back, id)
		}
	}
	require.NoError(m.T, m.Tasks.EndTasks(m.Ctx, queue, ended))
	require.Equal(m.T, len(back), queuetest.Must(m.Tasks.Requeue(m.Ctx, queue, back)))
	for _, id := range ended {
		delete(m.held, id)
	}
	for _, id := range back {
		delete(m.held, id)
		m.back[id] = true
	}
}

// queued returns the ids of the tasks of actions that wait in a fair queue, each once.
func (m *fairModel) queued(queue string) map[string]bool {
	ids := make(map[string]bool)
	for _, k := range m.Offers(batch.Bulk) {
		if k.Queue == queue {
			require.False(m.T, ids[k.ID] && !m.lossy, "%q waits twice", k.ID)
			ids[k.ID] = true
		}
	}
	return ids
}

func (m *fairModel) pendingIn(queue string) []string {
	return queuetest.Must(m.DB.Client.LRange(m.Ctx, tasks.AsynqPrefix(queue)+"pending", 0, -1).Result())
}

// lose loses a key of a fair queue, as an operator could. What waited there is offered again.
func (m *fairModel) lose() {
	var keys []string
	for key := range m.AllKeys() {
		if strings.HasPrefix(key, "batchd:fair:") {
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 {
		return
	}
	slices.Sort(keys)
	require.NoError(m.T, m.DB.Client.Del(m.Ctx, keys[m.IntN(len(keys))]).Err())
	for _, queue := range m.Tasks.QueuesOf(queuetest.Crm(batch.Bulk)) { // the polls that follow meet what is left
		ids, _ := m.polls(queue, 3, false)
		for _, id := range ids {
			delete(m.back, id)
			m.held[id] = queue
		}
	}
	for _, f := range m.flows {
		m.Tasks.Retract(m.Ctx, f.Flow)
		var indexes []int
		for i := range f.total {
			if id := tasks.TaskID(f.ID, i, f.Round); m.waits[id] && m.held[id] == "" {
				indexes = append(indexes, i)
			} else {
				delete(m.waits, id)
			}
		}
		if len(indexes) > 0 {
			require.NoError(m.T, m.Tasks.Offer(m.Ctx, f.Flow, tasks.RangesOf(indexes)))
		}
	}
}

// check compares the queues with the model.
func (m *fairModel) check() {
	all := make(map[string]bool)
	n := 0
	for _, queue := range m.Tasks.QueuesOf(queuetest.Crm(batch.Bulk)) {
		of := m.queued(queue)
		n += len(of)
		maps.Copy(all, of)
		scores := queuetest.Must(m.DB.Client.ZRangeWithScores(m.Ctx, tasks.FairPrefix(queue)+"o", 0, -1).Result())
		slices.SortFunc(scores, func(a, b redis.Z) int { return int(a.Score - b.Score) })
		if len(scores) > 0 && !m.lossy {
			require.LessOrEqual(m.T, scores[len(scores)-1].Score-scores[0].Score, 32.0, "%v", scores)
		}
	}
	for id := range m.waits {
		if !all[id] {
			require.True(m.T, m.held[id] != "" || m.back[id], "%q does not wait", id)
		}
	}
	for id := range all {
		require.True(m.T, m.waits[id], "%q waits", id)
	}
	if !m.lossy {
		require.Equal(m.T, n, queuetest.Must(m.Tasks.WaitingEverywhere(m.Ctx)))
	}
}

// drain takes and ends all.
func (m *fairModel) drain() {
	for _, queue := range m.Tasks.QueuesOf(queuetest.Crm(batch.Bulk)) {
		for {
			ids, more := m.polls(queue, 200, false)
			for _, id := range ids {
				require.Empty(m.T, m.held[id], "%q is taken twice", id)
				delete(m.waits, id)
				delete(m.back, id)
			}
			require.NoError(m.T, m.Tasks.EndTasks(m.Ctx, queue, ids))
			if !more {
				break
			}
		}
	}
	for id, queue := range m.held {
		require.NoError(m.T, m.Tasks.EndTasks(m.Ctx, queue, []string{id}))
		delete(m.waits, id) // it has a task, so it got no other
	}
	require.Empty(m.T, m.waits)
	require.Empty(m.T, m.back)
	m.noFairKeys()
	for key := range m.AllKeys() {
		require.NotContains(m.T, key, ":t:")
	}
	m.flows, m.held = nil, map[string]string{}
}
