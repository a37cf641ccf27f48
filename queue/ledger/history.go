package ledger

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/queue/rdb"
)

const (
	// settleFor is how long a process begins no action after Redis may have gone back to an
	// earlier state. Meanwhile, all processes repeat their last steps, so that no worker sends an
	// action twice. It is longer than the time between the first and the last process that
	// notices the change.
	settleFor = time.Second
	// historyEvery is how often a process with attempts to repeat asks Redis for the id of its
	// replication history.
	historyEvery = 500 * time.Millisecond
	// maxHistories is the most histories that a process remembers.
	maxHistories = 1000
)

// History notices that Redis may have gone back to an earlier state: a server restarted, or a
// replica became the master. Both change the id of the server's replication history. Most such
// changes close the connections, so the process asks for the id over every new connection, before
// it sends any other command.
type History struct {
	changed func() // History calls it after each change

	mu        sync.Mutex
	known     map[string]struct{}
	expectNew bool      // an unknown id belongs to a server that the process has not met before
	until     time.Time // the process begins no action before
}

// NewHistory returns a history that knows no server.
func NewHistory() *History {
	return &History{changed: func() {}, known: make(map[string]struct{})}
}

// onChange sets the function that History calls after each change.
func (h *History) onChange(changed func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.changed = changed
}

// ExpectNewServers sets whether an unknown id belongs to a server that the process has not met
// before. If not, an unknown id means that a known server has changed its history.
func (h *History) ExpectNewServers(expect bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.expectNew = expect
}

// Connected asks a server for the id of its history, over a new connection. It returns the error of
// go-redis if the server does not reply, and nil if the server refuses the question.
func (h *History) Connected(ctx context.Context, conn *redis.Conn) error {
	info, err := conn.Info(ctx, "replication").Result()
	if refused := redis.Error(nil); errors.As(err, &refused) {
		return nil // the server does not report it, or is a sentinel or a proxy
	}
	if err != nil {
		return err //nolint:wrapcheck // go-redis calls this function and expects its own error
	}
	h.observe(info)
	return nil
}

// observe reads the id of a history from the reply to INFO. If the id is unknown, Redis may have
// gone back to an earlier state.
func (h *History) observe(info string) {
	id := rdb.InfoField(info, "master_replid")
	if id == "" || strings.Trim(id, "0") == "" {
		return
	}
	h.mu.Lock()
	_, known := h.known[id]
	first := len(h.known) == 0 || h.expectNew
	if !known {
		if len(h.known) >= maxHistories {
			clear(h.known)
		}
		h.known[id] = struct{}{}
	}
	h.mu.Unlock()
	if !known && !first {
		h.setBack()
	}
}

// setBack records that Redis may have gone back to an earlier state just now.
func (h *History) setBack() {
	h.mu.Lock()
	h.until = time.Now().Add(settleFor)
	changed := h.changed
	h.mu.Unlock()
	changed()
}

// settled waits until the process may begin actions. If the context ends first, it returns the
// cause.
func (h *History) settled(ctx context.Context) error {
	for {
		h.mu.Lock()
		left := time.Until(h.until)
		h.mu.Unlock()
		if left <= 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(left):
		}
	}
}

// learnHistories asks all servers of a cluster for their ids, so that the process recognizes an
// unknown id later as a change.
func (r *Restorer) learnHistories(ctx context.Context) error {
	if r.db.Cluster == nil {
		return nil
	}
	r.history.ExpectNewServers(true)
	err := r.askHistories(ctx)
	r.history.ExpectNewServers(err != nil)
	return err
}

// askHistories asks all servers for the ids of their histories.
func (r *Restorer) askHistories(ctx context.Context) error {
	ctx, cancel := r.db.WithTimeout(ctx)
	defer cancel()
	ask := func(ctx context.Context, c redis.Cmdable) error {
		info, err := c.Info(ctx, "replication").Result()
		if err == nil {
			r.history.observe(info)
		}
		return err //nolint:wrapcheck // mapped below
	}
	if r.db.Cluster != nil {
		return rdb.MapError(ctx, r.db.Cluster.ForEachMaster(ctx, func(ctx context.Context, c *redis.Client) error { return ask(ctx, c) }))
	}
	return rdb.MapError(ctx, ask(ctx, r.db.Client))
}

// WatchHistory asks Redis for the ids of the histories every historyEvery while the process has
// attempts to repeat, since a proxy keeps connections open while the server behind it changes. It
// also compares the actions that this process has ended with Redis. It returns when closed is
// closed.
func (r *Restorer) WatchHistory(closed <-chan struct{}) {
	if r.db.Embed != nil {
		return
	}
	tick := time.NewTicker(historyEvery)
	defer tick.Stop()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	learned := false
	verified := time.Now()
	for {
		if !learned {
			learned = r.learnHistories(ctx) == nil
		} else if r.attempts.busy() {
			_ = r.askHistories(ctx) // the next tick asks again
			if now := time.Now(); now.Sub(verified) >= verifyEvery {
				verified = now
				_ = r.verifyEnded(ctx, now) // the next comparison repeats it
			}
		}
		select {
		case <-tick.C:
		case <-closed:
			return
		}
	}
}
