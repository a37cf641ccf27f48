package rdb

import (
	"crypto/rand"
	"fmt"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

// clockStep is how often the embedded store's clock moves on.
const clockStep = 50 * time.Millisecond

// EmbeddedStore is a Redis in this process. miniredis keeps times to live as durations and does not
// let time pass by itself, so a goroutine moves its clock on.
type EmbeddedStore struct {
	Server   *miniredis.Miniredis
	password string
	quit     func()
	quits    chan struct{}
	done     chan struct{}
}

func startEmbedded() (*EmbeddedStore, error) {
	// The port is open to every program of this machine, so it takes a password.
	e := &EmbeddedStore{Server: miniredis.NewMiniRedis(), password: rand.Text(), quits: make(chan struct{}), done: make(chan struct{})}
	e.quit = sync.OnceFunc(func() { close(e.quits) })
	e.Server.RequireAuth(e.password)
	if err := e.Server.StartAddr("127.0.0.1:0"); err != nil {
		return nil, fmt.Errorf("start the embedded store: %w", err)
	}
	go e.drive()
	return e, nil
}

func (e *EmbeddedStore) drive() {
	defer close(e.done)
	tick := time.NewTicker(clockStep)
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case <-e.quits:
			return
		case now := <-tick.C:
			e.Server.FastForward(now.Sub(last))
			last = now
		}
	}
}

func (e *EmbeddedStore) client(timeout time.Duration) redis.UniversalClient {
	return redis.NewClient(tune(&redis.Options{Addr: e.Server.Addr(), Password: e.password}, timeout, nil))
}

// StopClock stops the clock, so that a test can set the time of Server.
func (e *EmbeddedStore) StopClock() {
	e.quit()
	<-e.done
}

func (e *EmbeddedStore) close() {
	e.StopClock()
	e.Server.Close()
}
