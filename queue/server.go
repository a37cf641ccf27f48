package queue

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/hibiken/asynq"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/rdb"
)

// Line says what a [Server] takes of one target's tasks.
type Line struct {
	Target string
	// Places is the most tasks in hand at a time.
	Places int
	// Rate is that of the target, over all servers. Zero is none. Of any period of it,
	// at most Rate.N + Burst - 1 requests are written. A Burst of 0 is 1.
	Rate  batch.Rate
	Burst int
	// FIFO serves the batches of an owner one after the other. Otherwise they share the owner's slots.
	FIFO bool
	// Held returns for how long from now nothing may be taken, and a channel that
	// is closed when that changes. Nil is never.
	Held func() (time.Duration, <-chan struct{})
}

// ServerConfig configures a [Server].
type ServerConfig struct {
	// Config is that of the asynq server that delivers webhooks. Concurrency and queues follow
	// from the rest. Its RetryDelayFunc also says when an action runs again.
	asynq.Config
	Lines []Line
	// WebhookPlaces is the most webhooks in hand at a time.
	WebhookPlaces int
}

// Handlers run tasks.
type Handlers struct {
	// Action runs the task of an action. It holds one of the target's places until
	// it gives it up, or returns. For a target with a rate it is called shortly before the
	// send time, and has to go by the place's Approach and Ready. With an error the task comes again, after
	// [asynq.Config.RetryDelayFunc] of that error.
	Action func(id string, index int, place *Place) error
	// Webhook runs the task of a webhook.
	Webhook asynq.HandlerFunc
}

// Server runs the tasks of all queues of a worker. It takes those of actions many at a time,
// as there are places for them, and as soon as it hears of them.
//
// Those it runs itself: of a task it needs only the id, and what asynq does around a handler (two
// goroutines, contexts, a copy of the message) is a fifth of what an action costs a worker. An
// asynq server delivers webhooks.
type Server struct {
	webhooks *webhooks
	taker    *taker
	drain    time.Duration
}

// NewServer returns a server on the store's connections. It stays usable until
// the store is closed.
func (s *Store) NewServer(cfg ServerConfig) *Server {
	return &Server{
		webhooks: s.newWebhooks(cfg.Config, cfg.WebhookPlaces), taker: newTaker(s, cfg),
		drain: cmp.Or(cfg.ShutdownTimeout, 8*time.Second), // as asynq has it
	}
}

// Start has the handlers run the tasks. It returns at once.
func (s *Server) Start(h Handlers) error {
	s.taker.start(h.Action)
	return s.webhooks.start(h.Webhook)
}

// Stop takes nothing new, and gives back what was not handed to the handler yet.
func (s *Server) Stop() {
	s.taker.stop()
	s.taker.giveBackRest()
	s.webhooks.server.Stop()
}

// Shutdown stops the server, and returns when the handlers have, or after
// [asynq.Config.ShutdownTimeout]. An action that still runs then comes again once the
// lease of its task has expired, or the sweeper finds it.
func (s *Server) Shutdown() {
	s.Stop()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.taker.runners.Wait()
	}()
	limit := time.NewTimer(s.drain)
	defer limit.Stop()
	s.webhooks.server.Shutdown()
	select {
	case <-ended:
	case <-limit.C:
	}
	s.taker.close()
}

// wakeLocal tells the consumers of this process that a queue has tasks.
func (s *Store) wakeLocal(queue string) {
	if s.local != nil {
		s.local(queue)
	}
}

// wake tells the takers of this process that a queue has tasks, which spares them
// the way through Redis.
func (s *Store) wake(queue string) {
	s.takersMu.Lock()
	takers := slices.Collect(maps.Keys(s.takers))
	s.takersMu.Unlock()
	for _, t := range takers {
		t.mark(queue)
	}
}

// laneOf returns the lane of a queue that a server of this process takes tasks from,
// or nil.
func (s *Store) laneOf(queue string) *lane {
	s.takersMu.Lock()
	defer s.takersMu.Unlock()
	for t := range s.takers {
		if q := t.lanes[queue]; q != nil {
			return q
		}
	}
	return nil
}

func (s *Store) addTaker(t *taker) (remove func()) {
	s.takersMu.Lock()
	defer s.takersMu.Unlock()
	s.takers[t] = struct{}{}
	return func() {
		s.takersMu.Lock()
		defer s.takersMu.Unlock()
		delete(s.takers, t)
	}
}

// open reports whether there is any batch that has not ended.
func (s *Store) open(ctx context.Context) (bool, error) {
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	n, err := s.db.Client.Exists(ctx, openKey).Result()
	return n > 0, rdb.MapError(ctx, err)
}

// redisForgot has the sweeper look for what others took from queues that are as they were before, and
// have not begun, and the takers of this process look into all queues.
func (s *Store) redisForgot() {
	s.takersMu.Lock()
	takers := slices.Collect(maps.Keys(s.takers))
	s.takersMu.Unlock()
	for _, t := range takers {
		for _, l := range t.lines {
			l.mu.Lock()
			for _, q := range l.lanes {
				q.missed()
			}
			l.mu.Unlock()
			l.markAll()
		}
	}
}
