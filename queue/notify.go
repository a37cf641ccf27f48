package queue

import (
	"context"
	"log/slog"
	"sync"

	"github.com/redis/go-redis/v9"
)

// notices wakes those who wait for the end of a batch. All of them share one
// subscription, which is made with the first.
type notices struct {
	rdb redis.UniversalClient
	log *slog.Logger

	mu      sync.Mutex
	sub     *redis.PubSub
	waiting map[string]map[chan struct{}]struct{}
	held    map[int]func(message string)
	holders int // so many came in all
	wg      sync.WaitGroup
}

func newNotices(rdb redis.UniversalClient, log *slog.Logger) *notices {
	return &notices{rdb: rdb, log: log, waiting: make(map[string]map[chan struct{}]struct{}), held: make(map[int]func(string))}
}

// Watch implements [batch.Store].
func (s *Store) Watch(id string) (<-chan struct{}, func()) { return s.notices.watch(id) }

func (n *notices) watch(id string) (<-chan struct{}, func()) {
	wake := make(chan struct{}, 1)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.subscribe()
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

// holds calls f with every message of the channel of held targets.
func (n *notices) holds(f func(message string)) (stop func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.subscribe()
	n.holders++
	key := n.holders
	n.held[key] = f
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.held, key)
	}
}

// subscribe makes the one subscription, with the lock held.
func (n *notices) subscribe() {
	if n.sub != nil {
		return
	}
	n.sub = n.rdb.Subscribe(context.Background(), doneChannel, holdChannel)
	messages := n.sub.Channel()
	n.wg.Go(func() { n.receive(messages) })
}

func (n *notices) receive(messages <-chan *redis.Message) {
	for m := range messages {
		n.mu.Lock()
		if m.Channel == holdChannel {
			for _, f := range n.held {
				f(m.Payload)
			}
		}
		for wake := range n.waiting[m.Payload] {
			select {
			case wake <- struct{}{}:
			default: // it has a wake-up that it did not see yet
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
