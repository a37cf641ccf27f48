package rdb

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// messagesAhead is the number of messages that may wait for their listeners.
	messagesAhead = 1000
	// subscribeEvery is how often the subscription is repeated. If Redis answers it with an error,
	// go-redis keeps the connection and does not report the error.
	subscribeEvery = 5 * time.Second
	// subscribeWait is how long a caller waits for a subscription. One that takes longer goes on in
	// the background.
	subscribeWait = 250 * time.Millisecond
)

// PubSub hands published messages to listeners. All share one subscription, which begins with the
// first listener. A broken connection can lose messages.
type PubSub struct {
	client redis.UniversalClient
	log    *slog.Logger

	mu        sync.Mutex
	sub       *redis.PubSub
	every     time.Duration
	again     *time.Timer // repeats the subscription
	closed    bool
	channels  map[string]bool
	listeners map[string]map[int]func(message string) // by channel
	keys      int                                     // of listeners that there were
	wg        sync.WaitGroup
}

// NewPubSub returns a PubSub on the connections of a DB. The caller closes it.
func NewPubSub(db *DB, log *slog.Logger) *PubSub {
	return &PubSub{client: db.Client, log: log, every: subscribeEvery, channels: make(map[string]bool), listeners: make(map[string]map[int]func(string))}
}

// Listen calls f with every message of a channel, until stop is called. It calls the listeners one
// after the other, so f must not wait.
func (p *PubSub) Listen(channel string, f func(message string)) (stop func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.subscribe(channel)
	if p.listeners[channel] == nil {
		p.listeners[channel] = make(map[int]func(string))
	}
	p.keys++
	key := p.keys
	p.listeners[channel][key] = f
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.listeners[channel], key)
	}
}

// subscribe adds a channel to the one subscription, with the lock held.
func (p *PubSub) subscribe(channel string) {
	if p.channels[channel] || p.closed {
		return
	}
	p.channels[channel] = true
	if p.sub == nil {
		p.sub = p.client.Subscribe(context.Background()) // without a channel it opens no connection
		messages := p.sub.Channel(redis.WithChannelSize(messagesAhead))
		p.wg.Go(func() { p.receive(messages) })
		p.again = time.AfterFunc(p.every, p.resubscribe)
	}
	done := make(chan struct{})
	p.wg.Go(func() {
		defer close(done)
		ctx, cancel := context.WithTimeout(context.Background(), DefaultTimeout)
		defer cancel()
		if err := p.sub.Subscribe(ctx, channel); err != nil {
			p.log.Warn("subscription waits for Redis", "channel", channel, "error", err)
		}
	})
	select {
	case <-done:
	case <-time.After(subscribeWait):
	}
}

// resubscribe repeats the subscription, and schedules the next repetition. Redis ignores a second
// subscription to the same channel.
func (p *PubSub) resubscribe() {
	p.mu.Lock()
	channels, closed := slices.Collect(maps.Keys(p.channels)), p.closed
	p.mu.Unlock()
	if closed {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), DefaultTimeout)
	defer cancel()
	if err := p.sub.Subscribe(ctx, channels...); err != nil {
		p.log.Debug("subscription waits for Redis", "error", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.again.Reset(p.every)
	}
}

func (p *PubSub) receive(messages <-chan *redis.Message) {
	for m := range messages {
		p.mu.Lock()
		for _, f := range p.listeners[m.Channel] {
			f(m.Payload)
		}
		p.mu.Unlock()
	}
}

// Close ends the subscription.
func (p *PubSub) Close() {
	p.mu.Lock()
	sub := p.sub
	p.closed = true
	p.mu.Unlock()
	if sub == nil {
		return
	}
	p.again.Stop()
	if err := sub.Close(); err != nil {
		p.log.Debug("subscription closed", "error", err)
	}
	p.wg.Wait()
}
