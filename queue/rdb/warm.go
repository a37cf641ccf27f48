package rdb

import (
	"context"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// farTrip is the round trip to Redis from which on connections are opened ahead of need.
	farTrip = 5 * time.Millisecond
	// warmCheck is how often the connections are counted.
	warmCheck = 2 * time.Second
	// warmEvery is how often idle connections are used, so that go-redis keeps them. It closes a
	// connection that it did not use for 30 minutes.
	warmEvery = 10 * time.Minute
)

// Warmer keeps as many connections to a distant Redis open as a busy process uses at a time. To open
// a connection takes three round trips, and go-redis opens one when all others are in use: the
// exchange that needs it then takes four.
type Warmer struct {
	DB *DB
	// Connections returns how many connections a busy process uses at a time if a round trip to
	// Redis takes so long.
	Connections func(trip time.Duration) int
	// Steps are loaded into every server: one that the server does not know takes another round trip.
	Steps []*Step

	want   int       // connections to each server; zero if Redis is near
	warmed time.Time // when all of them were last used
}

// Run opens connections, and again after they were lost, until stop is closed. For the embedded
// store it does nothing.
func (w *Warmer) Run(stop <-chan struct{}) {
	if w.DB.Embed != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	tick := time.NewTicker(warmCheck)
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
		case <-stop:
			return
		}
	}
}

// measure finds out how far Redis is, and reports whether it could.
func (w *Warmer) measure(ctx context.Context) bool {
	ctx, cancel := w.DB.WithTimeout(ctx)
	defer cancel()
	if w.DB.Client.Ping(ctx).Err() != nil { // it may open a connection
		return false
	}
	sent := time.Now()
	if w.DB.Client.Ping(ctx).Err() != nil {
		return false
	}
	if trip := time.Since(sent); trip >= farTrip {
		w.want = min(w.Connections(trip), PoolSize/2)
	}
	return true
}

// warm opens the connections that are missing.
func (w *Warmer) warm(ctx context.Context) {
	ctx, cancel := w.DB.WithTimeout(ctx)
	defer cancel()
	_ = w.DB.forEachMaster(ctx, func(ctx context.Context, c redis.Cmdable) error { // what is missing then is opened soon
		if server, ok := c.(*redis.Client); ok {
			w.warmServer(ctx, server)
		}
		return nil
	})
	if time.Since(w.warmed) >= warmEvery {
		w.warmed = time.Now()
	}
}

// warmServer opens the connections to one server that are missing, all at a time, and loads the steps.
func (w *Warmer) warmServer(ctx context.Context, c *redis.Client) {
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
				w.load(ctx, conn)
			}
			opened.Done()
			opened.Wait() // else another one would use the same connection
		})
	}
	done.Wait()
}

func (w *Warmer) load(ctx context.Context, c *redis.Conn) {
	_, _ = c.Pipelined(ctx, func(p redis.Pipeliner) error { // one that the server does not know is sent by its text
		for _, step := range w.Steps {
			p.ScriptLoad(ctx, step.text) // Script.Load would take the reply before it comes
		}
		return nil
	})
}
