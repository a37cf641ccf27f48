package queue

import (
	"context"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/queue/rdb"
)

const (
	// farTrip is the round trip to Redis from which on a worker opens its connections
	// ahead of need.
	farTrip = 5 * time.Millisecond
	// spareConns is the number of connections for everything that is neither a begin, a
	// finish, a turn nor a reservation.
	spareConns = 4
	// warmEvery is how often idle connections are used, so that go-redis keeps them. It
	// closes a connection that it did not use for 30 minutes.
	warmEvery = 10 * time.Minute
)

// warmer keeps as many connections to a distant Redis open as a busy worker uses at a time.
// To open a connection takes three round trips, and go-redis opens one when all others
// are in use: the exchange that needs it then takes four.
type warmer struct {
	t      *taker
	want   int       // connections to each server; zero if Redis is near
	warmed time.Time // when all of them were last used
}

// keepWarm opens connections when the worker starts, and again after they were lost.
func (t *taker) keepWarm() {
	if t.s.db.Embed != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	w := &warmer{t: t}
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for known := false; ; {
		if !known {
			known = w.measure(ctx)
		}
		if w.want > 0 {
			w.warm(ctx)
		}
		select {
		case <-tick.C:
		case <-t.quit:
			return
		}
	}
}

// measure finds out how far Redis is, and reports whether it could.
func (w *warmer) measure(ctx context.Context) bool {
	ctx, cancel := w.t.s.db.WithTimeout(ctx)
	defer cancel()
	if w.t.s.db.Client.Ping(ctx).Err() != nil { // it may open a connection
		return false
	}
	sent := time.Now()
	if w.t.s.db.Client.Ping(ctx).Err() != nil {
		return false
	}
	if trip := time.Since(sent); trip >= farTrip {
		w.want = w.t.connections(trip)
	}
	return true
}

// connections returns how many connections a busy worker uses at a time.
func (t *taker) connections(trip time.Duration) int {
	n := spareConns + flights + min(int(trip/flightWait)+1, moreFlights)
	for _, l := range t.lines {
		if n++; l.pacer != nil {
			n += mostAsking
		}
	}
	return min(n, rdb.PoolSize/2)
}

// warm opens the connections that are missing.
func (w *warmer) warm(ctx context.Context) {
	ctx, cancel := w.t.s.db.WithTimeout(ctx)
	defer cancel()
	switch c := w.t.s.db.Client.(type) {
	case *redis.ClusterClient:
		_ = c.ForEachMaster(ctx, func(ctx context.Context, c *redis.Client) error { // what is missing then is opened soon
			w.warmServer(ctx, c)
			return nil
		})
	case *redis.Client:
		w.warmServer(ctx, c)
	}
	if time.Since(w.warmed) >= warmEvery {
		w.warmed = time.Now()
	}
}

// warmServer opens the connections to one server that are missing, all at a time, and has it
// know the steps: one that it does not know takes another round trip.
func (w *warmer) warmServer(ctx context.Context, c *redis.Client) {
	stats := c.PoolStats()
	total, idle := int(stats.TotalConns), int(stats.IdleConns)
	missing := min(w.want, c.Options().PoolSize/2) - total
	if missing <= 0 && (time.Since(w.warmed) < warmEvery || idle < total) {
		return
	}
	n := idle + max(missing, 0)
	var opened, done sync.WaitGroup
	opened.Add(n)
	for i := range n {
		done.Go(func() {
			conn := c.Conn()
			defer conn.Close()
			if i > 0 {
				_ = conn.Ping(ctx).Err() // it is tried again soon
			} else {
				w.t.s.steps.load(ctx, conn)
			}
			opened.Done()
			opened.Wait() // else another one would use the same connection
		})
	}
	done.Wait()
}
