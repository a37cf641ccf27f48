package repair

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/batches"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
)

const (
	// looksPerSecond is about how many open batches in which nothing happens the sweeper
	// looks at, however many there are: so each is looked at the less often.
	looksPerSecond = 3
	// LookAgain is the shortest time between two looks at such a batch.
	idleInterval = 4 * time.Second
	// LookSoon is the time between two looks at a batch in which something happens.
	activeInterval = 2 * time.Second
	// putOff is how long a batch is not looked at that was taken by a sweeper which then
	// died. The next sweeper begins by looking at all of them.
	claimFor = time.Hour
)

// schedule says when the sweeper looks at open batches.
type schedule struct {
	mu       sync.Mutex
	sweeper  string    // the worker of this process that is the sweeper, if one is
	renewed  time.Time // when its lease was extended last
	all      bool      // the next round looks at all batches
	other    bool      // another worker was the sweeper since the last call of replaced
	alertEnd time.Time
}

// election is the outcome of an attempt to become the sweeper.
type election int

const (
	otherSweeps  election = iota // another worker is the sweeper, or Redis did not answer
	leaseRenewed                 // the worker is the sweeper, and was it before
	leaseTaken                   // the worker is the sweeper, and no worker was
)

// lookAtAll has the next round look at all open batches, and those of the next while: work
// may have been lost.
func (c *schedule) lookAtAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all, c.alertEnd = true, time.Now().Add(batches.AlertFor)
}

// alertUntil has the next rounds look at all open batches until a time, if that is later than
// what is known.
func (c *schedule) alertUntil(at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if at.After(c.alertEnd) {
		c.alertEnd = at
	}
}

// round begins a round of a worker after an election that began at a time. It reports whether
// the round is to look at all open batches, since a sweeper before this one may have died
// with some that it took.
func (c *schedule) round(worker string, is election, at time.Time) (all bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.sweeper == worker
	if is == otherSweeps {
		if before {
			c.sweeper, c.other = "", true
		}
		return false
	}
	// Redis may have had the election repeated, and then answers that the lease was renewed.
	all = c.all || !before || is == leaseTaken || at.Sub(c.renewed) >= sweepLease
	c.sweeper, c.renewed, c.all = worker, at, false
	return all
}

// replaced reports whether another worker became the sweeper, or may have, since it was asked
// last.
func (c *schedule) replaced() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	other := c.other
	c.other = false
	return other
}

// again has the next round look at all open batches, because this one could not say when
// they are due.
func (c *schedule) again() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = true
}

func (c *schedule) alerted() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Before(c.alertEnd)
}

// next returns when a batch is due again that was looked at just now, with so many open, and
// whether something of it had changed since the look before.
func (c *schedule) next(m map[string]string, changed bool, now time.Time, open int) time.Time {
	soon := now.Add(activeInterval)
	status := batch.Status(m["status"])
	if c.alerted() || status.Terminal() || changed && status != batch.StatusQueued {
		return soon
	}
	idle := idleFor(open)
	due := now.Add(idle + rand.N(idle/4)) //nolint:gosec // jitter is no secret
	earlier := func(t time.Time) {
		if t.Before(soon) {
			t = soon
		}
		if t.Before(due) {
			due = t
		}
	}
	switch {
	case status == "":
	case m["ending"] == "":
		earlier(rdb.FromMillis(m["expires"]))
		if m["throttle"] == "" && rdb.Atoi(m["enqueued"]) < rdb.Atoi(m["total"]) {
			earlier(fanOutMoved(m).Add(FanOutTimeout))
		}
	default:
		earlier(rdb.FromMillis(m["expires"]).Add(overdueAfter))
	}
	return due
}

// idleFor is the shortest time between two looks at a batch in which nothing happens, with so
// many open. The longest is a quarter more.
func idleFor(open int) time.Duration {
	return max(idleInterval, time.Duration(open)*time.Second/looksPerSecond)
}

// fanOutMoved is when the fan-out of a batch last came further.
func fanOutMoved(m map[string]string) time.Time {
	return time.UnixMilli(max(rdb.Atoi(m["fanned"]), rdb.Atoi(m["created"])))
}

// DueNow has all open batches looked at in this round.
func (s *pages) makeAllDue(ctx context.Context) error {
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	return rdb.MapError(ctx, s.db.Client.ZUnionStore(ctx, keys.OpenKey, &redis.ZStore{Keys: []string{keys.OpenKey}, Weights: []float64{0}}).Err())
}

// PutDue says when batches are due again. One that was entered again meanwhile
// stays due.
func (s *pages) setDue(ctx context.Context, due map[string]time.Time) error {
	if len(due) == 0 {
		return nil
	}
	ctx, cancel := s.db.WithTimeout(context.WithoutCancel(ctx))
	defer cancel()
	entries := make([]redis.Z, 0, len(due))
	for id, at := range due {
		entries = append(entries, redis.Z{Member: id, Score: float64(at.UnixMilli())})
	}
	if err := s.db.Client.ZAddArgs(ctx, keys.OpenKey, redis.ZAddArgs{XX: true, LT: true, Members: entries}).Err(); err != nil {
		return fmt.Errorf("say when batches are due: %w", rdb.MapError(ctx, err))
	}
	return nil
}
