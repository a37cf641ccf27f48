package queue

import (
	"crypto/rand"
	"fmt"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/queue/rdb"
)

// clockStep is how often the embedded store's clock moves on.
const clockStep = 50 * time.Millisecond

// embedded is a Redis in this process. miniredis keeps times to live as
// durations and lets nobody's time pass by itself, so a goroutine drives it.
type embedded struct {
	server   *miniredis.Miniredis
	password string
	quit     func()
	quits    chan struct{}
	done     chan struct{}
}

func startEmbedded() (*embedded, error) {
	// The port is open to every program of this machine, so it takes a password.
	e := &embedded{server: miniredis.NewMiniRedis(), password: rand.Text(), quits: make(chan struct{}), done: make(chan struct{})}
	e.quit = sync.OnceFunc(func() { close(e.quits) })
	e.server.RequireAuth(e.password)
	if err := e.server.StartAddr("127.0.0.1:0"); err != nil {
		return nil, fmt.Errorf("start the embedded store: %w", err)
	}
	go e.drive()
	return e, nil
}

func (e *embedded) drive() {
	defer close(e.done)
	tick := time.NewTicker(clockStep)
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case <-e.quits:
			return
		case now := <-tick.C:
			e.server.FastForward(now.Sub(last))
			last = now
		}
	}
}

func (e *embedded) client(timeout time.Duration) redis.UniversalClient {
	return redis.NewClient(rdb.Tune(&redis.Options{Addr: e.server.Addr(), Password: e.password}, timeout, nil))
}

// stopClock lets no time to live pass any more.
func (e *embedded) stopClock() {
	e.quit()
	<-e.done
}

func (e *embedded) close() {
	e.stopClock()
	e.server.Close()
}
