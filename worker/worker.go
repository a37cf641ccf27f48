package worker

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/hibiken/asynq"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/setting"
	"github.com/batchd/batchd/queue/consumer"
)

const (
	// janitorEvery is how often asynq looks for its own results to remove; there are none.
	janitorEvery = 24 * time.Hour
	// abortGrace is the time after the drain time in which handlers give back their
	// actions.
	abortGrace = 5 * time.Second
)

// Config configures a [Worker]. Fields with a yaml tag are settings of a configuration file.
type Config struct {
	// Name identifies this worker among all. Defaults to host, process and a random part.
	Name string
	// Ledger, Dispatcher, Sweeper, Registry, Gate and Prober are required.
	Ledger     batch.Ledger
	Dispatcher batch.Dispatcher
	Sweeper    batch.Sweeper
	Registry   batch.Registry
	Gate       batch.Gate
	Prober     batch.Prober
	// NewServer returns the server that takes tasks and calls the handlers.
	NewServer func(consumer.ServerConfig) *consumer.Server
	// Targets are the targets whose actions this worker runs. They need no defaults.
	Targets []batch.Target
	// Webhooks configures the delivery of webhooks.
	Webhooks WebhookConfig
	// Drain is how long actions in flight may continue after the context of Run has ended. Then
	// the worker gives back the rest. Defaults to 25s.
	Drain time.Duration `yaml:"drain"`
	// Registerer registers the metrics. Defaults to none.
	Registerer prometheus.Registerer
	// Logger defaults to one that discards.
	Logger *slog.Logger
}

// WithDefaults returns the configuration with zero settings replaced.
func (c Config) WithDefaults() Config {
	c.Drain = cmp.Or(c.Drain, 25*time.Second)
	return c
}

// Check reports the faults of the settings.
func (c Config) Check(check *setting.Checker) {
	check.Duration("drain", c.Drain, time.Second, time.Hour)
}

// Worker runs actions and delivers webhooks.
type Worker struct {
	cfg     Config
	targets map[string]batch.Target
	gates   map[string]*targetGate
	acting  acting
	hooks   *deliverer
	turns   *turns
	metrics *metrics
	log     *slog.Logger
	inHand  sync.WaitGroup // the handlers that run
	// held is the context of the handlers' work. asynq's context for the handler of a webhook ends
	// when asynq gives up the task, but the handler must still record the result.
	held  context.Context //nolint:containedctx // the handlers' own contexts end too early; see above
	abort context.CancelCauseFunc
}

// errDraining is the cause of contexts that a shutdown ends.
var errDraining = errors.New("the worker is shutting down")

// New returns a worker. It does nothing until Run.
func New(cfg Config) (*Worker, error) {
	cfg = cfg.WithDefaults()
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Name == "" {
		host, err := os.Hostname()
		if err != nil {
			host = "worker"
		}
		cfg.Name = fmt.Sprintf("%s-%d-%s", host, os.Getpid(), rand.Text()[:6])
	}
	w := &Worker{cfg: cfg, turns: newTurns(webhookDeliveries), targets: make(map[string]batch.Target, len(cfg.Targets)), gates: make(map[string]*targetGate, len(cfg.Targets)), metrics: newMetrics(), log: cfg.Logger}
	for _, t := range cfg.Targets {
		w.targets[t.Name] = t.WithDefaults()
		w.gates[t.Name] = newTargetGate(t.WithDefaults())
	}
	var err error
	if w.hooks, err = newDeliverer(cfg.Webhooks); err != nil {
		return nil, err
	}
	if cfg.Registerer != nil {
		if err := w.metrics.register(cfg.Registerer); err != nil {
			return nil, err
		}
	}
	w.held, w.abort = context.WithCancelCause(context.Background())
	return w, nil
}

// Run runs tasks until the context ends, then drains: the worker takes no new task, lets actions in
// flight finish within the drain time, and gives back the rest. Run returns an error only if the
// worker could not start. A worker runs only once.
func (w *Worker) Run(ctx context.Context) error {
	defer w.abort(errDraining)
	defer w.hooks.close()
	defer w.cfg.Gate.Holds(w.hold)()
	// Beat before taking a task: other workers do not notice the death of a worker without a heartbeat.
	if _, err := w.cfg.Registry.Beat(ctx, w.cfg.Name); err != nil {
		w.log.WarnContext(ctx, "heartbeat missed", "worker", w.cfg.Name, "error", err)
	}
	server := w.cfg.NewServer(w.serverConfig())
	if err := server.Start(consumer.Handlers{Action: w.action, Webhook: w.webhook}); err != nil {
		server.Shutdown()
		return fmt.Errorf("start taking tasks: %w", err)
	}
	w.log.InfoContext(ctx, "worker started", "worker", w.cfg.Name, "targets", len(w.targets))
	// The heartbeat continues until the worker has drained: until then, no other worker
	// may take over its actions in flight.
	heartbeat, services := w.services()
	heartbeat.Start(context.WithoutCancel(ctx))
	defer heartbeat.Stop()
	for _, s := range services {
		s.Start(ctx)
	}
	<-ctx.Done()
	for _, s := range services {
		s.Stop()
	}
	w.log.InfoContext(ctx, "worker draining", "worker", w.cfg.Name, "drain", w.cfg.Drain)
	w.drain(server)
	heartbeat.Stop()
	w.log.InfoContext(ctx, "worker stopped", "worker", w.cfg.Name)
	return nil
}

// services returns the periodic duties of the worker.
func (w *Worker) services() (beat *service, others []*service) {
	dead := make(chan []string)
	sweeping := &sweeping{Worker: w}
	return newService((&heartbeat{w, dead}).run), []*service{
		newService((&recovery{w, dead}).run),
		newService(sweeping.run),
		newService((&probing{w, sweeping}).run),
		newService((&release{w, sweeping}).run),
	}
}

// drain stops the server. Actions in flight get the drain time.
func (w *Worker) drain(server *consumer.Server) {
	server.Stop()
	deadline := time.AfterFunc(w.cfg.Drain, func() { w.abort(errDraining) })
	defer deadline.Stop()
	server.Shutdown()
	w.awaitHandlers()
}

// awaitHandlers waits for handlers that run longer than the server, because they may still have a
// result to record.
func (w *Worker) awaitHandlers() {
	done := make(chan struct{})
	go func() {
		w.inHand.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-w.held.Done():
		select {
		case <-done:
		case <-time.After(abortGrace):
			w.log.WarnContext(context.WithoutCancel(w.held), "worker ended with results that it could not record")
		}
	}
}

func (w *Worker) serverConfig() consumer.ServerConfig {
	cfg := consumer.ServerConfig{WebhookSlots: webhookHandlers, Config: asynq.Config{
		JanitorInterval: janitorEvery,
		ShutdownTimeout: w.cfg.Drain + abortGrace,
		RetryDelayFunc:  retryDelay,
		IsFailure:       isFailedDelivery,
		Logger:          asynqLogger{w.log},
		LogLevel:        asynq.WarnLevel,
	}}
	for _, t := range w.targets {
		cfg.Targets = append(cfg.Targets, consumer.Target{Name: t.Name, Slots: t.Concurrency, Rate: t.Rate, Burst: t.Burst, FIFO: t.BatchOrder == batch.BatchOrderFIFO, Held: w.gates[t.Name].held})
	}
	return cfg
}

// action runs the task of an action.
func (w *Worker) action(id string, index int, slot *consumer.Slot) error {
	w.inHand.Add(1)
	defer w.inHand.Done()
	return w.runAction(id, index, slot)
}

// webhook runs the task of a webhook.
func (w *Worker) webhook(ctx context.Context, t *asynq.Task) error {
	w.inHand.Add(1)
	defer w.inHand.Done()
	return w.runWebhook(ctx, t)
}

// laterError asks for another run of the handler's task after a delay.
type laterError struct {
	after  time.Duration
	reason string
	// failed: the run counts as a failed run of the task.
	failed bool
}

// Error implements error.
func (e *laterError) Error() string { return e.reason }

func retryDelay(_ int, err error, _ *asynq.Task) time.Duration {
	if later := (*laterError)(nil); errors.As(err, &later) {
		return later.after
	}
	return 5 * time.Second // a panic, or a task whose lease expired
}

// asynqLogger writes asynq's messages to slog.
type asynqLogger struct{ log *slog.Logger }

func (l asynqLogger) at(level slog.Level, args []any) {
	l.log.Log(context.Background(), level, "asynq", "message", fmt.Sprint(args...))
}

// Debug implements [asynq.Logger].
func (l asynqLogger) Debug(args ...any) { l.at(slog.LevelDebug, args) }

// Info implements [asynq.Logger].
func (l asynqLogger) Info(args ...any) { l.at(slog.LevelInfo, args) }

// Warn implements [asynq.Logger].
func (l asynqLogger) Warn(args ...any) { l.at(slog.LevelWarn, args) }

// Error implements [asynq.Logger].
func (l asynqLogger) Error(args ...any) { l.at(slog.LevelError, args) }

// Fatal implements [asynq.Logger]. It does not end the process: that is not a library's
// decision.
func (l asynqLogger) Fatal(args ...any) { l.at(slog.LevelError, args) }
