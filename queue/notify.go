package queue

import (
	"context"
	"log/slog"
	"sync"

	"github.com/redis/go-redis/v9"
)

// notesAhead is the number of messages that may wait to be heard.
const notesAhead = 1000

// notices hears what is published: the ends of batches, for those who wait, and
// what others listen to. All share one subscription, which is made with the first.
type notices struct {
	rdb redis.UniversalClient
	log *slog.Logger

	mu       sync.Mutex
	sub      *redis.PubSub
	channels map[string]bool
	waiting  map[string]map[chan struct{}]struct{}
	hearers  map[string]map[int]func(message string) // by channel
	heard    int                                     // so many came in all
	wg       sync.WaitGroup
}

func newNotices(rdb redis.UniversalClient, log *slog.Logger) *notices {
	return &notices{rdb: rdb, log: log, channels: make(map[string]bool), waiting: make(map[string]map[chan struct{}]struct{}), hearers: make(map[string]map[int]func(string))}
}

// Watch implements [batch.Store].
func (s *Store) Watch(id string) (<-chan struct{}, func()) { return s.notices.watch(id) }

func (n *notices) watch(id string) (<-chan struct{}, func()) {
	wake := make(chan struct{}, 1)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.subscribe(doneChannel)
	if n.waiting[id] == nil {
		n.waiting[id] = make(map[chan struct{}]struct{})
	}
	n.waiting[id][wake] = struct{}{}
	return wake, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.waiting[id], wake)
		if len(n.waiting[id]) == 0 {
			delete(n.waiting, id)
		}
	}
}

// hear calls f with every message of a channel.
func (n *notices) hear(channel string, f func(message string)) (stop func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.subscribe(channel)
	if n.hearers[channel] == nil {
		n.hearers[channel] = make(map[int]func(string))
	}
	n.heard++
	key := n.heard
	n.hearers[channel][key] = f
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.hearers[channel], key)
	}
}

// subscribe adds a channel to the one subscription, with the lock held.
func (n *notices) subscribe(channel string) {
	switch {
	case n.sub == nil:
		n.sub = n.rdb.Subscribe(context.Background(), channel)
		messages := n.sub.Channel(redis.WithChannelSize(notesAhead))
		n.wg.Go(func() { n.receive(messages) })
	case !n.channels[channel]:
		if err := n.sub.Subscribe(context.Background(), channel); err != nil {
			n.log.Warn("subscription waits for Redis", "channel", channel, "error", err)
		}
	}
	n.channels[channel] = true
}

func (n *notices) receive(messages <-chan *redis.Message) {
	for m := range messages {
		n.mu.Lock()
		for _, f := range n.hearers[m.Channel] {
			f(m.Payload)
		}
		if m.Channel == doneChannel {
			for wake := range n.waiting[m.Payload] {
				select {
				case wake <- struct{}{}:
				default: // it has a wake-up that it did not see yet
				}
			}
		}
		n.mu.Unlock()
	}
}

func (n *notices) close() {
	n.mu.Lock()
	sub := n.sub
	n.mu.Unlock()
	if sub == nil {
		return
	}
	if err := sub.Close(); err != nil {
		n.log.Debug("subscription closed", "error", err)
	}
	n.wg.Wait()
}
