package batcher

import (
	"cmp"
	"context"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
)

const (
	// maxActions is the most actions that share one exchange with Redis.
	maxActions = 256
	// MaxBytes is the most bytes that several actions bring along. An exchange
	// that takes too long fails for all of them, and would each time anew.
	MaxBytes = 4 << 20
	// gatherFor is about how long a step that can wait does, for others to share its
	// exchange, and gatherMost how many of them wait no longer.
	gatherFor  = 300 * time.Microsecond
	GatherMost = 32
	// MaxFlushers is the number of exchanges under way at a time. While they are, the
	// next ones gather.
	MaxFlushers = 2
	// FlushWait is how long steps wait for one of those to end: where Redis is so far
	// that it takes longer, what waits and is small has exchanges of its own, up to moreFlights.
	FlushWait       = 20 * time.Millisecond
	maxMoreFlushers = 32
	smallFlush      = 64 << 10
)

// Call is one action's part in a step of the ledger that others share: the step
// is run once for all actions of a batch, and all batches in one exchange.
type Call struct {
	Step    *rdb.Step
	ID      string
	Head    []any // arguments that the actions of one step have in common
	Index   int
	Args    []any
	Read    bool // the action is to be read, too
	CanWait bool // it can wait for others to come along, a moment
	alone   bool // in an exchange of its own: it failed before, perhaps for the size of the answers

	// The answer: what the actions have in common, and this action's own.
	Common []any
	Own    []string // or nothing, if it went as usual
	Action any      // as it is stored, if it is
	First  bool     // of those that share the step
	err    error
	done   chan struct{}
}

// Batcher lets steps of the ledger that are asked for at about the same time
// share exchanges with Redis. The goroutines that make these stay, since their
// stacks have grown to what the client of Redis needs.
type Batcher struct {
	db      *rdb.DB
	doubtIf func(id string, err error) // is called after each step

	Mu       sync.Mutex
	due      sync.Cond // there are some who wait, or no more will come
	Waiting  []*Call
	flushNow bool // they are not to wait for others
	Gather   time.Duration
	Over     *time.Timer // that long after the first of them
	Flushers int
	More     int                          // exchanges beyond those
	late     *time.Timer                  // that long after steps began to wait for one to end
	timed    bool                         // it runs
	nodes    map[*redis.Client]*nodeCalls // of a cluster
	closed   bool
	Wg       sync.WaitGroup
}

func New(db *rdb.DB, doubtIf func(id string, err error)) *Batcher {
	c := &Batcher{db: db, doubtIf: doubtIf, Gather: gatherFor}
	c.due.L = &c.Mu
	c.Over = time.AfterFunc(time.Hour, func() {
		c.Mu.Lock()
		defer c.Mu.Unlock()
		c.send()
	})
	c.late = time.AfterFunc(time.Hour, c.flushMore)
	return c
}

// Close returns when all who wait have been answered.
func (c *Batcher) Close() {
	c.Mu.Lock()
	c.send()
	c.closed = true
	c.due.Broadcast()
	c.Over.Stop()
	c.late.Stop()
	c.Mu.Unlock()
	c.Wg.Wait()
}

// Do runs the step and returns when it is answered. It does not end before with
// the caller: a step that may have been done, and of which nobody knows, would
// leave an action in doubt.
func (c *Batcher) Do(r *Call) error {
	r.done, r.alone, r.err = make(chan struct{}), r.err != nil, nil
	c.Mu.Lock()
	if c.closed {
		c.Mu.Unlock()
		return redis.ErrClosed
	}
	c.Waiting = append(c.Waiting, r)
	switch {
	case !r.CanWait || c.flushNow || len(c.Waiting) >= GatherMost:
		c.send()
	case len(c.Waiting) == 1:
		c.Over.Reset(c.Gather)
	}
	c.Mu.Unlock()
	<-r.done
	return r.err
}

// send has all who wait go, with the lock held.
func (c *Batcher) send() {
	if len(c.Waiting) == 0 {
		return
	}
	c.flushNow = true
	if c.Flushers < MaxFlushers {
		c.Flushers++
		c.Wg.Go(c.FlushLoop)
		return
	}
	c.due.Signal()
	if !c.timed && c.db.Cluster == nil {
		c.timed = true
		c.late.Reset(FlushWait)
	}
}

// flushMore has those who wait go although as many exchanges as usual are under way.
func (c *Batcher) flushMore() {
	c.Mu.Lock()
	defer c.Mu.Unlock()
	c.timed = false
	if len(c.Waiting) == 0 || !c.flushNow || c.closed {
		return
	}
	c.timed = true
	c.late.Reset(FlushWait)
	rides := c.Waiting[:fitting(c.Waiting)]
	if c.More == maxMoreFlushers || sizeOf(rides) > smallFlush { // the more at a time of what is large, the later each is there
		return
	}
	if c.Waiting = c.Waiting[len(rides):]; len(c.Waiting) == 0 {
		c.Waiting, c.flushNow = nil, false // what flies must not be overwritten
	}
	c.More++
	c.Wg.Go(func() {
		c.exchange(rides)
		c.Mu.Lock()
		c.More--
		c.Mu.Unlock()
	})
}

func (c *Batcher) FlushLoop() {
	for {
		c.Mu.Lock()
		for len(c.Waiting) == 0 || !c.flushNow {
			if c.closed && len(c.Waiting) == 0 {
				c.Mu.Unlock()
				return
			}
			c.due.Wait()
		}
		c.Mu.Unlock()
		runtime.Gosched() // so that those who come just now come along
		c.Mu.Lock()
		if len(c.Waiting) == 0 || !c.flushNow {
			c.Mu.Unlock()
			continue // another was faster
		}
		rides := c.Waiting[:fitting(c.Waiting)]
		c.Waiting = c.Waiting[len(rides):]
		if len(c.Waiting) == 0 {
			c.Waiting, c.flushNow = nil, false // what flies must not be overwritten
		}
		c.Mu.Unlock()
		if c.db.Cluster != nil {
			c.toNodes(rides)
		} else {
			c.exchange(rides)
		}
	}
}

func (c *Batcher) exchange(rides []*Call) {
	c.run(rides)
	for _, r := range rides {
		close(r.done)
	}
}

// sizeOf returns how many bytes steps bring along.
func sizeOf(rides []*Call) (bytes int) {
	for _, r := range rides {
		for _, arg := range r.Args {
			if sealed, ok := arg.([]byte); ok {
				bytes += len(sealed)
			}
		}
	}
	return bytes
}

// fitting returns how many of those who wait go along in one exchange.
func fitting(waiting []*Call) int {
	bytes := 0
	for n, r := range waiting {
		bytes += sizeOf(waiting[n : n+1])
		if n == maxActions || (n > 0 && (bytes > MaxBytes || r.alone || waiting[0].alone)) {
			return n
		}
	}
	return len(waiting)
}

// shared is a step for some actions of one batch.
type shared struct {
	rides   []*Call
	cmd     *redis.Cmd
	actions *redis.SliceCmd
}

// run runs the steps of all rides in one exchange.
func (c *Batcher) run(rides []*Call) {
	ctx, cancel := c.db.WithTimeout(context.Background())
	defer cancel()
	steps := group(rides)
	pipe := c.db.Client.Pipeline()
	for _, g := range steps {
		r := g.rides[0]
		k := keys.KeysOf(r.ID)
		g.cmd = pipe.EvalSha(ctx, r.Step.Hash(), k.Step(), g.args()...)
		if r.Read { // beside the step: what goes through Lua is copied there, and hashed
			g.actions = pipe.HMGet(ctx, k.Actions, rdb.FieldsOf(g.indexes())...)
		}
	}
	c.db.Send(ctx, pipe)
	for _, g := range steps {
		g.cmd = c.db.AnswerOf(ctx, g.rides[0].Step, g.cmd)
		err := g.cmd.Err()
		if err == nil && g.actions != nil {
			err = g.actions.Err()
		}
		err = rdb.MapError(ctx, err)
		c.doubtIf(g.rides[0].ID, err)
		g.answer(err)
	}
}

// group puts the actions of a batch that need the same step together, by
// ascending index. An action that comes twice gets a second step.
func group(rides []*Call) []*shared {
	slices.SortStableFunc(rides, func(a, b *Call) int {
		if a.ID != b.ID {
			return cmp.Compare(a.ID, b.ID)
		}
		if a.Step != b.Step {
			return cmp.Compare(a.Step.Hash(), b.Step.Hash())
		}
		return a.Index - b.Index
	})
	var steps []*shared
	for _, r := range rides {
		if n := len(steps); n > 0 {
			g := steps[n-1]
			last := g.rides[len(g.rides)-1]
			if last.ID == r.ID && last.Step == r.Step && last.Index != r.Index && slices.Equal(last.Head, r.Head) {
				g.rides = append(g.rides, r)
				continue
			}
		}
		steps = append(steps, &shared{rides: []*Call{r}})
	}
	return steps
}

func (g *shared) args() []any {
	first := g.rides[0]
	args := make([]any, 0, 2+len(first.Head)+len(g.rides)*(1+len(first.Args)))
	args = append(args, first.ID, keys.DoneChannel)
	args = append(args, first.Head...)
	for _, r := range g.rides {
		args = append(args, r.Index)
		args = append(args, r.Args...)
	}
	return args
}

// indexes returns those of the actions.
func (g *shared) indexes() []int {
	indexes := make([]int, len(g.rides))
	for i, r := range g.rides {
		indexes[i] = r.Index
	}
	return indexes
}

// answer hands each action its part of the step's answer: the last of it, one
// for each.
func (g *shared) answer(err error) {
	parts, _ := g.cmd.Val().([]any)
	var actions []any
	if g.actions != nil {
		actions = g.actions.Val()
	}
	if err == nil && (len(parts) < len(g.rides) || g.actions != nil && len(actions) != len(g.rides)) {
		err = rdb.ErrAnswer
	}
	if err != nil {
		for _, r := range g.rides {
			r.err = err
		}
		return
	}
	common := parts[:len(parts)-len(g.rides)]
	for i, r := range g.rides {
		r.Common, r.First = common, i == 0
		if actions != nil {
			r.Action = actions[i]
		}
		switch own := parts[len(common)+i].(type) {
		case int64:
			r.Own = nil
		case []any:
			r.Own = rdb.Texts(own)
		default:
			r.Own = []string{rdb.Text(own)}
		}
	}
}

// Exchanges returns how many exchanges are under way at a time if each takes that long.
func Exchanges(trip time.Duration) int {
	return MaxFlushers + min(int(trip/FlushWait)+1, maxMoreFlushers)
}

// Usual is the verdict of a step on an action with which it went as usual.
const Usual = ""

// Verdict returns the step's verdict on this action.
func (r *Call) Verdict() string {
	if len(r.Own) == 0 {
		return Usual
	}
	return r.Own[0]
}

// MayBeBegun reports whether the last try of a begin may have begun the action.
func (r *Call) MayBeBegun() bool {
	return r.err != nil || r.Verdict() != "held" && r.Verdict() != "interrupted"
}
