package consumer

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/hibiken/asynq"

	"github.com/batchd/batchd/internal/batch"
)

// Target says what a [Server] takes of one target's tasks.
type Target struct {
	Name string
	// Places is the most tasks in hand at a time.
	Slots int
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
	Targets []Target
	// WebhookPlaces is the most webhooks in hand at a time.
	WebhookSlots int
}

// Handlers run tasks.
type Handlers struct {
	// Action runs the task of an action. It holds one of the target's places until
	// it gives it up, or returns. For a target with a rate it is called shortly before the
	// send time, and has to go by the place's Approach and Ready. With an error the task comes again, after
	// [asynq.Config.RetryDelayFunc] of that error.
	Action func(id string, index int, place *Slot) error
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
	consumer *consumer
	drain    time.Duration
}

// NewServer returns a server on the store's connections. It stays usable until
// the store is closed.
func (s *Consumers) NewServer(cfg ServerConfig) *Server {
	return &Server{
		webhooks: s.newWebhooks(cfg.Config, cfg.WebhookSlots), consumer: newConsumer(s, cfg),
		drain: cmp.Or(cfg.ShutdownTimeout, 8*time.Second), // as asynq has it
	}
}

// Start has the handlers run the tasks. It returns at once.
func (s *Server) Start(h Handlers) error {
	s.consumer.start(h.Action)
	return s.webhooks.start(h.Webhook)
}

// Stop takes nothing new, and gives back what was not handed to the handler yet.
func (s *Server) Stop() {
	s.consumer.stop()
	s.consumer.giveBackRest()
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
		s.consumer.runners.Wait()
	}()
	limit := time.NewTimer(s.drain)
	defer limit.Stop()
	s.webhooks.server.Shutdown()
	select {
	case <-ended:
	case <-limit.C:
	}
	s.consumer.close()
}

// wake tells the takers of this process that a queue has tasks, which spares them
// the way through Redis.
func (s *Consumers) wake(queue string) {
	s.mu.Lock()
	takers := slices.Collect(maps.Keys(s.consumers))
	s.mu.Unlock()
	for _, t := range takers {
		t.markNonEmpty(queue)
	}
}

// queueOf returns the lane of a queue that a server of this process takes tasks from,
// or nil.
func (s *Consumers) queueOf(queue string) *taskQueue {
	s.mu.Lock()
	defer s.mu.Unlock()
	for t := range s.consumers {
		if q := t.queues[queue]; q != nil {
			return q
		}
	}
	return nil
}

func (s *Consumers) add(t *consumer) (remove func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.consumers[t] = struct{}{}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.consumers, t)
	}
}

// redisForgot has the sweeper look for what others took from queues that are as they were before, and
// have not begun, and the takers of this process look into all queues.
func (s *Consumers) redisForgot() {
	s.mu.Lock()
	takers := slices.Collect(maps.Keys(s.consumers))
	s.mu.Unlock()
	for _, t := range takers {
		for _, l := range t.targets {
			l.mu.Lock()
			for _, q := range l.queues {
				q.reportMissed()
			}
			l.mu.Unlock()
			l.markAllNonEmpty()
		}
	}
}
