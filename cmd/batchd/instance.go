package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/batchd/batchd/api"
	"github.com/batchd/batchd/api/auth"
	"github.com/batchd/batchd/dispatch"
	"github.com/batchd/batchd/internal/audit"
	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/config"
	"github.com/batchd/batchd/queue"
	"github.com/batchd/batchd/queue/consumer"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/seal"
	"github.com/batchd/batchd/worker"
)

// roles are the parts of batchd that an instance runs.
type roles struct{ api, worker bool }

// instance is a running batchd: the API, a worker, or both in one process.
type instance struct {
	// URL is the API's, or that of the health and metrics of a worker without an API.
	URL string
	// MonitorURL is that of health and metrics beside an API, or empty.
	MonitorURL string

	store      *queue.Store
	audit      *audit.Log
	dispatcher *dispatch.Dispatcher // for actions
	verifier   *dispatch.Dispatcher // for questions about credentials
	cancel     context.CancelFunc
	running    sync.WaitGroup
	mu         sync.Mutex
	err        error
	ended      chan struct{}
}

// startInstance starts an instance, which runs until ctx ends or Close is called. Then
// it drains: the API ends its waits, and the worker finishes the actions in flight. Only
// the audit log may go to stdout.
func startInstance(ctx context.Context, cfg *config.Config, log *slog.Logger, stdout io.Writer, r roles) (_ *instance, err error) {
	if cfg.Redis.URL == rdb.Embedded && r != (roles{api: true, worker: true}) {
		return nil, errors.New("the embedded store lives in one process, so an API and a worker apart cannot share it: " +
			"set redis.url (--redis-url), or run both as one with: batchd serve")
	}
	i := &instance{ended: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, i.release())
		}
	}()
	rdb.SetLogger(log)
	if i.store, err = queue.Open(queue.Config{Redis: cfg.Redis, Seal: cfg.Seal.Config, Logger: log}); err != nil {
		return nil, fmt.Errorf("open the store: %w", err)
	}
	i.greetStore(ctx, log, cfg, r)
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))

	health := monitor{store: i.store, checks: i.store.Checks, metrics: registry, log: log}
	var serve func(context.Context, net.Listener) error
	listen := cfg.Listen
	if r.api {
		if i.audit, err = audit.Open(cfg.Audit, stdout, log, registry); err != nil {
			return nil, err
		}
		greetKeys(ctx, log, cfg)
		warnUnused(ctx, log, cfg)
		out := apiConfig(cfg, i.store, i.audit, registry, log)
		health.checks = out.Checks
		if asked := askedTargets(cfg); len(asked) > 0 {
			if i.verifier, err = dispatch.New(dispatch.Config{Targets: asked, Logger: log, Registerer: registry}); err != nil {
				return nil, fmt.Errorf("open the targets that are asked about credentials: %w", err)
			}
			out.Verifier = i.verifier
		}
		server, err := api.New(out)
		if err != nil {
			return nil, err
		}
		serve = server.Run
	} else {
		listen = cfg.Worker.Listen
		serve = health.run
	}
	var work func(context.Context) error
	if r.worker {
		if i.dispatcher, err = dispatch.New(dispatch.Config{Targets: cfg.Targets, Logger: log, Registerer: registry}); err != nil {
			return nil, fmt.Errorf("open the targets: %w", err)
		}
		w, err := worker.New(workerConfig(cfg, i.store, i.dispatcher, registry, log))
		if err != nil {
			return nil, fmt.Errorf("make the worker: %w", err)
		}
		work = w.Run
	}
	listener, err := listenOn(ctx, listen)
	if err != nil {
		return nil, err
	}
	i.URL = "http://" + listener.Addr().String()
	if r.api {
		i.URL = cfg.Server.Scheme() + "://" + listener.Addr().String()
	}
	var monitored net.Listener
	if r.api && cfg.Monitor.Listen != "" {
		if monitored, err = listenOn(ctx, cfg.Monitor.Listen); err != nil {
			return nil, errors.Join(err, listener.Close())
		}
		i.MonitorURL = "http://" + monitored.Addr().String()
	}

	ctx, i.cancel = context.WithCancel(ctx)
	i.run(ctx, func(ctx context.Context) error { return serve(ctx, listener) })
	if monitored != nil {
		i.run(ctx, func(ctx context.Context) error { return health.run(ctx, monitored) })
	}
	if work != nil {
		i.run(ctx, work)
	}
	if r.api {
		i.running.Go(func() {
			i.store.Batches.Quotas.KeepAnnounced(ctx, cfg.Quotas.Owner.StoredBytes, cfg.Quotas.PerAddress.StoredBytes)
		})
	}
	go func() {
		i.running.Wait()
		if err := i.release(); err != nil {
			i.fail(err)
		}
		close(i.ended)
	}()
	log.InfoContext(ctx, "batchd is up", "url", i.URL, "api", r.api, "worker", r.worker, "version", buildVersion())
	return i, nil
}

func listenOn(ctx context.Context, address string) (net.Listener, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", address, err)
	}
	return listener, nil
}

// run runs one part. If it fails, all parts end.
func (i *instance) run(ctx context.Context, part func(context.Context) error) {
	i.running.Go(func() {
		if err := part(ctx); err != nil {
			i.fail(err)
			i.cancel()
		}
	})
}

func (i *instance) fail(err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.err = errors.Join(i.err, err)
}

// Wait waits until the instance has drained, and returns the reason of its end, or nil
// after a normal stop.
func (i *instance) Wait() error {
	<-i.ended
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.err
}

// Close stops the instance, and waits until it has drained.
func (i *instance) Close() error {
	i.cancel()
	return i.Wait()
}

func (i *instance) release() error {
	for _, d := range []*dispatch.Dispatcher{i.dispatcher, i.verifier} {
		if d != nil {
			d.Close()
		}
	}
	var errs []error
	if err := i.audit.Close(); err != nil {
		errs = append(errs, fmt.Errorf("close the audit log: %w", err))
	}
	if i.store != nil {
		if err := i.store.Close(); err != nil {
			errs = append(errs, fmt.Errorf("close the store: %w", err))
		}
	}
	return errors.Join(errs...)
}

// greetStore logs facts about the store that an operator should know.
func (i *instance) greetStore(ctx context.Context, log *slog.Logger, cfg *config.Config, r roles) {
	if err := i.store.Ping(ctx); err != nil {
		log.WarnContext(ctx, "redis does not answer; batches are refused until it does", "url", cfg.Redis.URL, "error", err)
	}
	faults, err := i.store.Preflight(ctx)
	if err != nil {
		log.DebugContext(ctx, "the redis configuration could not be checked", "error", err)
	}
	for _, fault := range faults {
		log.ErrorContext(ctx, "unsupported redis configuration", "why", fault)
	}
	prepare := i.store.CheckSeals
	if r.api {
		prepare = i.store.PrepareSeals
	}
	if err := prepare(ctx); errors.Is(err, seal.ErrSealed) {
		log.ErrorContext(ctx, "what is stored in redis cannot be opened, so keys are refused and batches fail", "error", err)
	} else if err != nil {
		log.DebugContext(ctx, "the seals in redis could not be checked", "error", err)
	}
	if cfg.Redis.URL == rdb.Embedded {
		log.InfoContext(ctx, "batches are kept in the memory of this process and are lost when it ends; set redis.url to keep them")
	} else if !i.store.Sealed() {
		log.WarnContext(ctx, "batches are not encrypted in redis, so actions with credentials are refused; set seal.keys to encrypt batches")
	} else if i.store.Seals.AcceptsClear() {
		log.WarnContext(ctx, "batches that are stored in clear are accepted, so whoever can write to redis can plant some; run batchd seal rotate, then remove seal.accept_clear_until", "until", cfg.Seal.AcceptClearUntil)
	}
}

// greetKeys warns if no key can authenticate by the file of keys.
func greetKeys(ctx context.Context, log *slog.Logger, cfg *config.Config) {
	if file := keysFile(cfg); file != nil {
		if check := file.Check(); check.State != batch.CheckOK {
			log.WarnContext(ctx, "no key authenticates; batchd reads the file again when it changes", "setting", "auth.keys_file", "file", file.Path, "why", check.Detail)
		}
	}
}

// keysFile returns the file by which keys authenticate, or nil if none does.
func keysFile(cfg *config.Config) *config.KeysFile {
	if cfg.Auth.KeysFile == "" || !cfg.Auth.Has(auth.ModeKeys) {
		return nil
	}
	return &config.KeysFile{Path: cfg.Auth.KeysFile}
}

// checksOf returns the checks of a process with the API: those of the store, and of the file of keys.
func checksOf(cfg *config.Config, store *queue.Store) func(context.Context) []batch.Check {
	file := keysFile(cfg)
	if file == nil {
		return store.Checks
	}
	return func(ctx context.Context) []batch.Check { return append(store.Checks(ctx), file.Check()) }
}

// warnUnused logs settings of the API that have no effect with the others.
func warnUnused(ctx context.Context, log *slog.Logger, cfg *config.Config) {
	for i := range cfg.Targets {
		if cfg.Targets[i].Verify != nil && !cfg.Auth.Has(auth.ModePassthrough) {
			log.WarnContext(ctx, "targets[].verify has no effect: auth.modes has no passthrough", "target", cfg.Targets[i].Name)
		}
	}
	if cfg.Auth.Sessions.ClientID != "" && !cfg.Auth.Has(auth.ModeJWT) {
		log.WarnContext(ctx, "auth.sessions.client_id has no effect: auth.modes has no jwt")
	}
}

// workerConfig adds the parts of a worker to its settings.
func workerConfig(cfg *config.Config, store *queue.Store, dispatcher *dispatch.Dispatcher, registry *prometheus.Registry, log *slog.Logger) worker.Config {
	out := cfg.Worker.Config
	out.Ledger, out.Sweeper, out.Registry, out.Gate, out.NewServer = store.Ledger, store.Sweeper, store.Sweeper.Recovery, store.Gate, consumer.New(store).NewServer
	out.Dispatcher, out.Prober = dispatcher, dispatcher
	out.Targets = cfg.Targets
	out.Webhooks = cfg.Webhooks
	out.Webhooks.UserAgent = "batchd/" + buildVersion()
	out.Registerer, out.Logger = registry, log
	return out
}

// keySource returns where batchd's own keys are.
func keySource(cfg *config.Config, store *queue.Store) batch.KeySource {
	if cfg.Auth.KeysFile != "" {
		return &config.KeysFile{Path: cfg.Auth.KeysFile}
	}
	return store.Keys
}

// askedTargets returns the targets that the API asks about credentials.
func askedTargets(cfg *config.Config) (asked []batch.Target) {
	for i := range cfg.Targets {
		if t := &cfg.Targets[i]; t.Verify != nil && cfg.Auth.Has(auth.ModePassthrough) {
			asked = append(asked, t.ForVerify(cfg.Limits.Capacity.CredentialChecks))
		}
	}
	return asked
}

// apiConfig adds the parts of the API to its settings.
func apiConfig(cfg *config.Config, store *queue.Store, auditLog *audit.Log, registry *prometheus.Registry, log *slog.Logger) api.Config {
	out := api.Config{
		Server: cfg.Server, Audit: auditLog, Auth: cfg.Auth, Keys: keySource(cfg, store), Sessions: store.Sessions, Limits: cfg.Limits, Quotas: cfg.Quotas, Endpoints: cfg.Endpoints, Policies: cfg.Targets,
		Store: store, InMemory: cfg.Redis.URL == rdb.Embedded, Owner: store.Owner, Sealed: store.Sealed(),
		Webhooks: cfg.Webhooks.Config, Checks: checksOf(cfg, store), MetricsElsewhere: cfg.Monitor.Listen != "",
		Logger: log, Version: buildVersion(), Metrics: registry,
	}
	if host, port, err := net.SplitHostPort(cfg.Listen); err == nil && host != "" {
		if port != "0" { // clients may use the address as it is written
			host = cfg.Listen
		}
		out.Auth.Hosts = append(slices.Clone(cfg.Auth.Hosts), host)
	}
	for _, t := range cfg.Targets {
		out.Targets = append(out.Targets, t.Name)
		if base, err := batch.ParseBaseURL(t.BaseURL); err == nil && base.Path != "" {
			out.BasePaths = append(out.BasePaths, base.EscapedPath())
		}
		if t.Transactions != nil {
			out.Transactional = append(out.Transactional, t.Name)
		}
	}
	return out
}
