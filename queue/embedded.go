package queue

import (
	"crypto/rand"
	"fmt"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

// clockStep is how often the embedded store's clock moves on.
const clockStep = 50 * time.Millisecond

// embedded is a Redis in this process. miniredis keeps times to live as
// durations and lets nobody's time pass by itself, so a goroutine drives it.
type embedded struct {
	server   *miniredis.Miniredis
	password string
	quit     chan struct{}
	done     chan struct{}
}

func startEmbedded() (*embedded, error) {
	// The port is open to every program of this machine, so it takes a password.
	e := &embedded{server: miniredis.NewMiniRedis(), password: rand.Text(), quit: make(chan struct{}), done: make(chan struct{})}
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
		case <-e.quit:
			return
		case now := <-tick.C:
			e.server.FastForward(now.Sub(last))
			last = now
		}
	}
}

func (e *embedded) client(timeout time.Duration) redis.UniversalClient {
	return redis.NewClient(tune(&redis.Options{Addr: e.server.Addr(), Password: e.password}, timeout, nil))
}

func (e *embedded) close() {
	close(e.quit)
	<-e.done
	e.server.Close()
}
