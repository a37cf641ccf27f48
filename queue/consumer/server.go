package consumer

import (
	"cmp"
	"time"

	"github.com/hibiken/asynq"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/webhooks"
)

// Target says how a [Server] takes the tasks of one target.
type Target struct {
	Name string
	// Slots is the most tasks that run at a time in this server. At a target with a rate it is the most
	// requests.
	Slots int
	// Rate is that of the target, over all servers. Zero is none. In any period of the rate,
	// at most Rate.N + Burst - 1 requests are written. A Burst of 0 is 1.
	Rate  batch.Rate
	Burst int
	// FIFO serves the batches of an owner one after the other. Otherwise they share the owner's slots.
	FIFO bool
	// Held returns for how long from now no task may be taken, and a channel that
	// is closed when that changes. Nil means never.
	Held func() (time.Duration, <-chan struct{})
}

// ServerConfig configures a [Server].
type ServerConfig struct {
	// Config is that of the asynq server that delivers webhooks, except Concurrency and Queues, which follow
	// from the rest. Its RetryDelayFunc also says when an action runs again, and is asynq's by default.
	asynq.Config
	Targets []Target
	// WebhookSlots is the most tasks of webhooks that are handled at a time.
	WebhookSlots int
}

// Handlers run tasks.
type Handlers struct {
	// Action runs the task of an action, which has one of the target's slots until
	// Action calls the slot's Leave, or returns. For a target with a rate, Action is called shortly before a
	// send time, and calls the slot's Approach and Ready before each request. If it returns an error, the task
	// comes again after [asynq.Config.RetryDelayFunc] of that error.
	Action func(id string, index int, slot *Slot) error
	// Webhook runs the task of a webhook.
	Webhook asynq.HandlerFunc
}

// Server runs the tasks of all queues of a worker. It takes the tasks of actions many at a time,
// as it has slots for them, and as soon as it learns of them.
//
// It runs these tasks itself, because it needs only the id of a task: the work of asynq around a handler (two
// goroutines, contexts, a copy of the message) is a fifth of what an action costs a worker. An
// asynq server delivers webhooks.
type Server struct {
	webhooks *webhooks.Server
	consumer *consumer
	drain    time.Duration
}

// NewServer returns a server on the store's connections. It stays usable until
// the store is closed.
func (cs *Consumers) NewServer(cfg ServerConfig) *Server {
	if cfg.RetryDelayFunc == nil {
		cfg.RetryDelayFunc = asynq.DefaultRetryDelayFunc
	}
	return &Server{
		webhooks: webhooks.New(cs.store.DB, cfg.Config, cfg.WebhookSlots), consumer: newConsumer(cs, cfg),
		drain: cmp.Or(cfg.ShutdownTimeout, 8*time.Second), // asynq's default
	}
}

// Start begins to run tasks. It returns at once.
func (s *Server) Start(h Handlers) error {
	s.consumer.start(h.Action)
	return s.webhooks.Start(h.Webhook)
}

// Stop takes no further tasks, and gives back those that no handler has begun.
func (s *Server) Stop() {
	s.consumer.stop()
	s.consumer.giveBackRest()
	s.webhooks.Stop()
}

// Shutdown stops the server, and returns when the handlers have returned, or after
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
	s.webhooks.Shutdown()
	select {
	case <-ended:
	case <-limit.C:
	}
	s.consumer.close()
}
