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
	// SettleFor is how long nothing is begun after Redis may have gone back to an earlier
	// state. Meanwhile all processes repeat what they did, so that nothing of it is done
	// twice. It is longer than the time between the first and the last process to notice.
	settleFor = time.Second
	// historyEvery is how often a process that has anything to repeat asks Redis whether
	// it still goes on from the same state.
	historyEvery = 500 * time.Millisecond
	// mostHistories is the most histories that are remembered.
	maxHistories = 1000
)

// History notices that Redis may have gone back to an earlier state: a server was
// restarted, or a replica was made the master. By either, the id of its replication
// history changes. Connections do not outlast most such changes, so the id is asked for
// with every new connection, before anything else is sent over it.
type History struct {
	changed func() // is called after each change

	mu        sync.Mutex
	known     map[string]struct{}
	expectNew bool      // ids that are not known are those of servers not met before
	until     time.Time // nothing is begun before
}

// NewHistory returns a history that knows no server.
func NewHistory() *History {
	return &History{changed: func() {}, known: make(map[string]struct{})}
}

// onChange has a function called after each change.
func (h *History) onChange(changed func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.changed = changed
}

// Learn says whether ids that are not known are those of servers that were not met before.
func (h *History) ExpectNewServers(learning bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.expectNew = learning
}

// Connected asks a server, over a connection that was just opened, for the id of its history.
func (h *History) Connected(ctx context.Context, conn *redis.Conn) error {
	info, err := conn.Info(ctx, "replication").Result()
	if refused := redis.Error(nil); errors.As(err, &refused) {
		return nil // it does not say, or is no Redis server: a sentinel, or a proxy
	}
	if err != nil {
		return err //nolint:wrapcheck // go-redis passes it on, and is to see its own
	}
	h.observe(info)
	return nil
}

// observe takes the id of a history from the answer to INFO.
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

// suspect notes that Redis may have gone back to an earlier state just now.
func (h *History) setBack() {
	h.mu.Lock()
	h.until = time.Now().Add(settleFor)
	changed := h.changed
	h.mu.Unlock()
	changed()
}

// settled returns when actions may be begun.
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

// learn meets all servers of a cluster, so that one that is met later is known to be new.
func (s *Restorer) learnHistories(ctx context.Context) error {
	if _, cluster := s.db.Client.(*redis.ClusterClient); !cluster {
		return nil
	}
	s.history.ExpectNewServers(true)
	err := s.askHistories(ctx)
	s.history.ExpectNewServers(err != nil)
	return err
}

// askHistory asks all servers for the ids of their histories.
func (s *Restorer) askHistories(ctx context.Context) error {
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	ask := func(ctx context.Context, c redis.Cmdable) error {
		info, err := c.Info(ctx, "replication").Result()
		if err == nil {
			s.history.observe(info)
		}
		return err //nolint:wrapcheck // mapped below
	}
	if c, ok := s.db.Client.(*redis.ClusterClient); ok {
		return rdb.MapError(ctx, c.ForEachMaster(ctx, func(ctx context.Context, c *redis.Client) error { return ask(ctx, c) }))
	}
	return rdb.MapError(ctx, ask(ctx, s.db.Client))
}

// WatchHistory asks for the ids of the histories from time to time, since a proxy keeps
// connections open while the server behind it changes, and compares what this process has
// ended with what Redis knows, until closed is.
func (s *Restorer) WatchHistory(closed <-chan struct{}) {
	if s.db.Embed != nil {
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
			learned = s.learnHistories(ctx) == nil
		} else if s.attempts.busy() {
			_ = s.askHistories(ctx) // it is asked again soon
			if now := time.Now(); now.Sub(verified) >= verifyEvery {
				verified = now
				_ = s.verifyEnded(ctx, now) // likewise
			}
		}
		select {
		case <-tick.C:
		case <-closed:
			return
		}
	}
}
