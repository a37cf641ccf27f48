package queue

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/rdb"
)

const (
	// notesAhead is the number of messages that may wait to be heard.
	notesAhead = 1000
	// subscribeEvery is how often the subscription is made once more. If Redis answers it
	// with an error, go-redis keeps the connection and does not say so.
	subscribeEvery = 5 * time.Second
)

// notices hears what is published: the ends of batches, for those who wait, and
// what others listen to. All share one subscription, which is made with the first.
type notices struct {
	rdb  redis.UniversalClient
	log  *slog.Logger
	name string // of this process

	mu       sync.Mutex
	sub      *redis.PubSub
	every    time.Duration
	again    *time.Timer // makes the subscription once more
	closed   bool
	channels map[string]bool
	waiting  map[string]map[chan *batch.Batch]int    // by batch; they are numbered
	watches  int                                     // so many there were in all
	hearers  map[string]map[int]func(message string) // by channel
	heard    int                                     // so many came in all
	wg       sync.WaitGroup
}

func newNotices(rdb redis.UniversalClient, log *slog.Logger, name string) *notices {
	return &notices{rdb: rdb, log: log, name: name, every: subscribeEvery, channels: make(map[string]bool), waiting: make(map[string]map[chan *batch.Batch]int), hearers: make(map[string]map[int]func(string))}
}

// Watch implements [batch.Store].
func (s *Store) Watch(id string) (<-chan *batch.Batch, func()) { return s.notices.watch(id) }

func (n *notices) watch(id string) (<-chan *batch.Batch, func()) {
	wake := make(chan *batch.Batch, 1)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.subscribe(doneChannel)
	if n.waiting[id] == nil {
		n.waiting[id] = make(map[chan *batch.Batch]int)
	}
	n.watches++
	n.waiting[id][wake] = n.watches
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

// subscribeWait is how long a caller waits for a subscription. One that takes longer goes
// on in the background; a waiter looks by itself now and then.
const subscribeWait = 250 * time.Millisecond

// subscribe adds a channel to the one subscription, with the lock held.
func (n *notices) subscribe(channel string) {
	if n.channels[channel] || n.closed {
		return
	}
	n.channels[channel] = true
	if n.sub == nil {
		n.sub = n.rdb.Subscribe(context.Background()) // without a channel it opens no connection
		messages := n.sub.Channel(redis.WithChannelSize(notesAhead))
		n.wg.Go(func() { n.receive(messages) })
		n.again = time.AfterFunc(n.every, n.resubscribe)
	}
	done := make(chan struct{})
	n.wg.Go(func() {
		defer close(done)
		ctx, cancel := context.WithTimeout(context.Background(), rdb.DefaultTimeout)
		defer cancel()
		if err := n.sub.Subscribe(ctx, channel); err != nil {
			n.log.Warn("subscription waits for Redis", "channel", channel, "error", err)
		}
	})
	select {
	case <-done:
	case <-time.After(subscribeWait):
	}
}

// resubscribe sends the subscription again, and schedules the next time. Redis ignores
// a second subscription to the same channel.
func (n *notices) resubscribe() {
	n.mu.Lock()
	channels, closed := slices.Collect(maps.Keys(n.channels)), n.closed
	n.mu.Unlock()
	if closed {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), rdb.DefaultTimeout)
	defer cancel()
	if err := n.sub.Subscribe(ctx, channels...); err != nil {
		n.log.Debug("subscription waits for Redis", "error", err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.closed {
		n.again.Reset(n.every)
	}
}

func (n *notices) receive(messages <-chan *redis.Message) {
	for m := range messages {
		n.mu.Lock()
		for _, f := range n.hearers[m.Channel] {
			f(m.Payload)
		}
		n.mu.Unlock()
		if m.Channel == doneChannel {
			if id, origin, _ := strings.Cut(m.Payload, " "); origin != n.name { // else who ended it tells
				n.tell(id, nil, 0)
			}
		}
	}
}

// awaited returns the number of the last watch if anybody waits for the batch here, or 0.
func (n *notices) awaited(id string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.waiting[id]) == 0 {
		return 0
	}
	return n.watches
}

// tell wakes those who wait for a batch, with the batch as it ended, or nil for them to
// look, as those have to whose watches began later: it may have been retried meanwhile.
func (n *notices) tell(id string, b *batch.Batch, last int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for wake, number := range n.waiting[id] {
		handed := b
		if number > last {
			handed = nil
		}
		select {
		case wake <- handed:
		default: // it has a wake-up that it did not see yet
		}
	}
}

func (n *notices) close() {
	n.mu.Lock()
	sub := n.sub
	n.closed = true
	n.mu.Unlock()
	if sub == nil {
		return
	}
	n.again.Stop()
	if err := sub.Close(); err != nil {
		n.log.Debug("subscription closed", "error", err)
	}
	n.wg.Wait()
}
