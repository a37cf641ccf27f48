package repair

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/index"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
)

const (
	// looksPerSecond is about how many idle open batches the sweeper checks per second. If more
	// batches are open, it checks each less often.
	looksPerSecond = 3
	// idleInterval is the shortest time between two checks of an idle batch.
	idleInterval = 4 * time.Second
	// activeInterval is the time between two checks of a batch that makes progress.
	activeInterval = 2 * time.Second
	// claimFor is how long a batch stays claimed by a sweeper that died after it read the batch as
	// due. The next sweeper does not wait for that time: its first round checks all batches.
	claimFor = time.Hour
)

// schedule decides when the sweeper checks each open batch, and when a round checks all.
type schedule struct {
	mu       sync.Mutex
	sweeper  string    // the worker of this process that is the sweeper, if one is
	renewed  time.Time // when that worker last extended its lease
	all      bool      // the next round checks all batches
	other    bool      // another worker has become the sweeper since the last call of replaced
	alertEnd time.Time // until then, work may have been lost, and rounds check all batches often
}

// election is the outcome of an attempt to become the sweeper.
type election int

const (
	otherSweeps  election = iota // another worker is the sweeper, or Redis did not answer
	leaseRenewed                 // the worker is the sweeper, and was the sweeper before
	leaseTaken                   // the worker is the sweeper; before, no worker was
)

// lookAtAll makes the next round check all open batches, and begins an alert for index.AlertFor,
// since work may have been lost.
func (c *schedule) lookAtAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all, c.alertEnd = true, time.Now().Add(index.AlertFor)
}

// alertUntil extends the alert to a time, if that is later than its end.
func (c *schedule) alertUntil(at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if at.After(c.alertEnd) {
		c.alertEnd = at
	}
}

// round records the outcome of an election of a worker, which began at the time at. It reports whether
// the round must check all open batches, since an earlier sweeper may have died with claimed ones.
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
	// The client may have repeated the election after a lost reply. Redis then replies that the
	// worker has renewed its lease, although the first run took it.
	all = c.all || !before || is == leaseTaken || at.Sub(c.renewed) >= sweepLease
	c.sweeper, c.renewed, c.all = worker, at, false
	return all
}

// replaced reports whether another worker has become the sweeper, or may have, since the last call.
func (c *schedule) replaced() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	other := c.other
	c.other = false
	return other
}

// again makes the next round check all open batches, because this round could not set when they are
// due, or another sweeper may have claimed some.
func (c *schedule) again() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = true
}

// alerted reports whether work may have been lost lately.
func (c *schedule) alerted() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Before(c.alertEnd)
}

// next returns when a batch that the sweeper has just checked is due again. m has fields of its meta
// hash, changed says whether it has made progress since the last check, and open is the number of
// open batches.
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

// idleFor returns the shortest time between two checks of an idle batch, by the number of open
// batches. The longest time is a quarter more.
func idleFor(open int) time.Duration {
	return max(idleInterval, time.Duration(open)*time.Second/looksPerSecond)
}

// fanOutMoved returns when the fan-out of a batch last made progress.
func fanOutMoved(m map[string]string) time.Time {
	return time.UnixMilli(max(rdb.Atoi(m["fanned"]), rdb.Atoi(m["created"])))
}

// makeAllDue makes all open batches due now.
func (p *pages) makeAllDue(ctx context.Context) error {
	ctx, cancel := p.db.WithTimeout(ctx)
	defer cancel()
	return rdb.MapError(ctx, p.db.Client.ZUnionStore(ctx, keys.OpenKey, &redis.ZStore{Keys: []string{keys.OpenKey}, Weights: []float64{0}}).Err())
}

// setDue sets when batches are due again. A batch that another process has made due earlier
// meanwhile stays due then.
func (p *pages) setDue(ctx context.Context, due map[string]time.Time) error {
	if len(due) == 0 {
		return nil
	}
	ctx, cancel := p.db.WithTimeout(context.WithoutCancel(ctx))
	defer cancel()
	entries := make([]redis.Z, 0, len(due))
	for id, at := range due {
		entries = append(entries, redis.Z{Member: id, Score: float64(at.UnixMilli())})
	}
	if err := p.db.Client.ZAddArgs(ctx, keys.OpenKey, redis.ZAddArgs{XX: true, LT: true, Members: entries}).Err(); err != nil {
		return fmt.Errorf("set when batches are due: %w", rdb.MapError(ctx, err))
	}
	return nil
}
