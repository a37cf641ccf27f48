package queue

import (
	"cmp"
	"context"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/queue/rdb"
)

const (
	// flightActions is the most actions that share one exchange with Redis.
	flightActions = 256
	// flightBytes is the most bytes that several actions bring along. An exchange
	// that takes too long fails for all of them, and would each time anew.
	flightBytes = 4 << 20
	// gatherFor is about how long a step that can wait does, for others to share its
	// exchange, and gatherMost how many of them wait no longer.
	gatherFor  = 300 * time.Microsecond
	gatherMost = 32
	// flights is the number of exchanges under way at a time. While they are, the
	// next ones gather.
	flights = 2
	// flightWait is how long steps wait for one of those to end: where Redis is so far
	// that it takes longer, what waits and is small has exchanges of its own, up to moreFlights.
	flightWait  = 20 * time.Millisecond
	moreFlights = 32
	smallFlight = 64 << 10
)

// ride is one action's part in a step of the ledger that others share: the step
// is run once for all actions of a batch, and all batches in one exchange.
type ride struct {
	step  *rdb.Step
	id    string
	head  []any // arguments that the actions of one step have in common
	index int
	args  []any
	read  bool // the action is to be read, too
	calm  bool // it can wait for others to come along, a moment
	alone bool // in an exchange of its own: it failed before, perhaps for the size of the answers

	// The answer: what the actions have in common, and this action's own.
	common []any
	own    []string // or nothing, if it went as usual
	action any      // as it is stored, if it is
	first  bool     // of those that share the step
	err    error
	done   chan struct{}
}

// combiner lets steps of the ledger that are asked for at about the same time
// share exchanges with Redis. The goroutines that make these stay, since their
// stacks have grown to what the client of Redis needs.
type combiner struct {
	db      *rdb.DB
	doubtIf func(id string, err error) // is called after each step

	mu      sync.Mutex
	due     sync.Cond // there are some who wait, or no more will come
	waiting []*ride
	hurry   bool // they are not to wait for others
	gather  time.Duration
	over    *time.Timer // that long after the first of them
	fliers  int
	more    int                          // exchanges beyond those
	late    *time.Timer                  // that long after steps began to wait for one to end
	timed   bool                         // it runs
	nodes   map[*redis.Client]*nodeRides // of a cluster
	closed  bool
	wg      sync.WaitGroup
}

func newCombiner(db *rdb.DB, doubtIf func(id string, err error)) *combiner {
	c := &combiner{db: db, doubtIf: doubtIf, gather: gatherFor}
	c.due.L = &c.mu
	c.over = time.AfterFunc(time.Hour, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.send()
	})
	c.late = time.AfterFunc(time.Hour, c.flyMore)
	return c
}

// close returns when all who wait have been answered.
func (c *combiner) close() {
	c.mu.Lock()
	c.send()
	c.closed = true
	c.due.Broadcast()
	c.over.Stop()
	c.late.Stop()
	c.mu.Unlock()
	c.wg.Wait()
}

// do runs the step and returns when it is answered. It does not end before with
// the caller: a step that may have been done, and of which nobody knows, would
// leave an action in doubt.
func (c *combiner) do(r *ride) error {
	r.done, r.alone, r.err = make(chan struct{}), r.err != nil, nil
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return redis.ErrClosed
	}
	c.waiting = append(c.waiting, r)
	switch {
	case !r.calm || c.hurry || len(c.waiting) >= gatherMost:
		c.send()
	case len(c.waiting) == 1:
		c.over.Reset(c.gather)
	}
	c.mu.Unlock()
	<-r.done
	return r.err
}

// send has all who wait go, with the lock held.
func (c *combiner) send() {
	if len(c.waiting) == 0 {
		return
	}
	c.hurry = true
	if c.fliers < flights {
		c.fliers++
		c.wg.Go(c.fly)
		return
	}
	c.due.Signal()
	if !c.timed && c.db.Cluster == nil {
		c.timed = true
		c.late.Reset(flightWait)
	}
}

// flyMore has those who wait go although as many exchanges as usual are under way.
func (c *combiner) flyMore() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.timed = false
	if len(c.waiting) == 0 || !c.hurry || c.closed {
		return
	}
	c.timed = true
	c.late.Reset(flightWait)
	rides := c.waiting[:fitting(c.waiting)]
	if c.more == moreFlights || sizeOf(rides) > smallFlight { // the more at a time of what is large, the later each is there
		return
	}
	if c.waiting = c.waiting[len(rides):]; len(c.waiting) == 0 {
		c.waiting, c.hurry = nil, false // what flies must not be overwritten
	}
	c.more++
	c.wg.Go(func() {
		c.exchange(rides)
		c.mu.Lock()
		c.more--
		c.mu.Unlock()
	})
}

func (c *combiner) fly() {
	for {
		c.mu.Lock()
		for len(c.waiting) == 0 || !c.hurry {
			if c.closed && len(c.waiting) == 0 {
				c.mu.Unlock()
				return
			}
			c.due.Wait()
		}
		c.mu.Unlock()
		runtime.Gosched() // so that those who come just now come along
		c.mu.Lock()
		if len(c.waiting) == 0 || !c.hurry {
			c.mu.Unlock()
			continue // another was faster
		}
		rides := c.waiting[:fitting(c.waiting)]
		c.waiting = c.waiting[len(rides):]
		if len(c.waiting) == 0 {
			c.waiting, c.hurry = nil, false // what flies must not be overwritten
		}
		c.mu.Unlock()
		if c.db.Cluster != nil {
			c.toNodes(rides)
		} else {
			c.exchange(rides)
		}
	}
}

func (c *combiner) exchange(rides []*ride) {
	c.run(rides)
	for _, r := range rides {
		close(r.done)
	}
}

// sizeOf returns how many bytes steps bring along.
func sizeOf(rides []*ride) (bytes int) {
	for _, r := range rides {
		for _, arg := range r.args {
			if sealed, ok := arg.([]byte); ok {
				bytes += len(sealed)
			}
		}
	}
	return bytes
}

// fitting returns how many of those who wait go along in one exchange.
func fitting(waiting []*ride) int {
	bytes := 0
	for n, r := range waiting {
		bytes += sizeOf(waiting[n : n+1])
		if n == flightActions || (n > 0 && (bytes > flightBytes || r.alone || waiting[0].alone)) {
			return n
		}
	}
	return len(waiting)
}

// shared is a step for some actions of one batch.
type shared struct {
	rides   []*ride
	cmd     *redis.Cmd
	actions *redis.SliceCmd
}

// run runs the steps of all rides in one exchange.
func (c *combiner) run(rides []*ride) {
	ctx, cancel := c.db.WithTimeout(context.Background())
	defer cancel()
	steps := group(rides)
	pipe := c.db.Client.Pipeline()
	for _, g := range steps {
		r := g.rides[0]
		k := keysOf(r.id)
		g.cmd = pipe.EvalSha(ctx, r.step.Hash(), k.step(), g.args()...)
		if r.read { // beside the step: what goes through Lua is copied there, and hashed
			g.actions = pipe.HMGet(ctx, k.actions, rdb.FieldsOf(g.indexes())...)
		}
	}
	c.db.Send(ctx, pipe)
	for _, g := range steps {
		g.cmd = c.db.AnswerOf(ctx, g.rides[0].step, g.cmd)
		err := g.cmd.Err()
		if err == nil && g.actions != nil {
			err = g.actions.Err()
		}
		err = rdb.MapError(ctx, err)
		c.doubtIf(g.rides[0].id, err)
		g.answer(err)
	}
}

// group puts the actions of a batch that need the same step together, by
// ascending index. An action that comes twice gets a second step.
func group(rides []*ride) []*shared {
	slices.SortStableFunc(rides, func(a, b *ride) int {
		if a.id != b.id {
			return cmp.Compare(a.id, b.id)
		}
		if a.step != b.step {
			return cmp.Compare(a.step.Hash(), b.step.Hash())
		}
		return a.index - b.index
	})
	var steps []*shared
	for _, r := range rides {
		if n := len(steps); n > 0 {
			g := steps[n-1]
			last := g.rides[len(g.rides)-1]
			if last.id == r.id && last.step == r.step && last.index != r.index && slices.Equal(last.head, r.head) {
				g.rides = append(g.rides, r)
				continue
			}
		}
		steps = append(steps, &shared{rides: []*ride{r}})
	}
	return steps
}

func (g *shared) args() []any {
	first := g.rides[0]
	args := make([]any, 0, 2+len(first.head)+len(g.rides)*(1+len(first.args)))
	args = append(args, first.id, doneChannel)
	args = append(args, first.head...)
	for _, r := range g.rides {
		args = append(args, r.index)
		args = append(args, r.args...)
	}
	return args
}

// indexes returns those of the actions.
func (g *shared) indexes() []int {
	indexes := make([]int, len(g.rides))
	for i, r := range g.rides {
		indexes[i] = r.index
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
		r.common, r.first = common, i == 0
		if actions != nil {
			r.action = actions[i]
		}
		switch own := parts[len(common)+i].(type) {
		case int64:
			r.own = nil
		case []any:
			r.own = rdb.Texts(own)
		default:
			r.own = []string{rdb.Text(own)}
		}
	}
}

// exchangesAtATime returns how many exchanges are under way at a time if each takes that long.
func exchangesAtATime(trip time.Duration) int {
	return flights + min(int(trip/flightWait)+1, moreFlights)
}
