package api

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/batchd/batchd/api/auth"
	"github.com/batchd/batchd/internal/audit"
	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/setting"
	"github.com/batchd/batchd/internal/webhook"
)

// Config configures a Server. Store and Targets are required. The fields whose types
// have yaml tags are the settings of a configuration file.
type Config struct {
	// Store keeps the batches.
	Store batch.Store
	// Targets are the names of the configured targets. If there is only one, a
	// submission need not name it.
	Targets []string
	// Policies are the targets with the settings for which the server refuses actions, see
	// [batch.Target.Refusals], or credentials, see [batch.Target.Verify]. Defaults to targets
	// without such settings.
	Policies []batch.Target
	// Transactional are the targets that have transactions of their own. On other
	// targets, the members of a group need undos. Defaults to none.
	Transactional []string
	// BasePaths are the paths of the targets' base URLs. Below them, too, no action may
	// be a batch. Defaults to none.
	BasePaths []string
	// Auth configures how the server determines the owner of a request.
	Auth auth.Config
	// Audit is the audit log. Defaults to none.
	Audit *audit.Log
	// Server configures the listener.
	Server ServerConfig
	// Owner turns a credential into an owner: a keyed hash, so that neither an owner
	// nor a log reveals the credential. The server treats an error of Owner as an error
	// of the store. Required by [auth.ModePassthrough].
	Owner func(ctx context.Context, credential string) (string, error)
	// Verifier makes the requests about credentials to those of Policies that have
	// [batch.Target.Verify]; see [batch.Target.ForVerify]. Required by [auth.ModePassthrough] if
	// there is one.
	Verifier batch.Dispatcher
	// Keys are batchd's own keys. Required by [auth.ModeKeys].
	Keys batch.KeySource
	// Sessions keeps the sessions of people who sign in with a browser. Defaults to none: the server then has no sign-in.
	Sessions batch.SessionStore
	// Limits bound what a submission may ask for. Defaults to [DefaultLimits]. To
	// change only some of them, start from these.
	Limits Limits
	// Quotas bound what each owner may have. Defaults to no quotas; a server has those of
	// [DefaultQuotas].
	Quotas Quotas
	// Webhooks has the settings of webhooks. Without a secret, the server refuses a
	// submission that names a webhook.
	Webhooks webhook.Config
	// Sealed: the store encrypts actions. Otherwise the server refuses an action that
	// carries a credential. Required by [auth.ModePassthrough].
	Sealed bool
	// InMemory: the store is in this process, and loses all batches when the process
	// ends. The server tells clients in a header. Defaults to a store that outlives the
	// process.
	InMemory bool
	// Endpoints are further paths that accept batches.
	Endpoints []Endpoint
	// Checks returns the checks that /readyz?verbose shows. Defaults to none.
	Checks func(ctx context.Context) []batch.Check
	// MetricsElsewhere: another listener serves /metrics, so the server does not.
	MetricsElsewhere bool
	// DrainTimeout is how long Run waits for requests in flight once its
	// context has ended. Defaults to 20s.
	DrainTimeout time.Duration
	// Logger receives one line per request. Defaults to one that discards.
	Logger *slog.Logger
	// Version is the version that /healthz reports.
	Version string
	// Metrics is the registry for the API's metrics, which /metrics serves. Defaults to
	// a registry of the server's own.
	Metrics *prometheus.Registry
}

// withDefaults returns the configuration with its zero values replaced.
func (c Config) withDefaults() Config {
	c.Auth = c.Auth.WithDefaults()
	c.Server = c.Server.WithDefaults()
	c.DrainTimeout = cmp.Or(c.DrainTimeout, 20*time.Second)
	if c.Limits == (Limits{}) {
		c.Limits = DefaultLimits()
	}
	c.Limits.Capacity = c.Limits.Capacity.WithDefaults()
	c.Limits.Admission = c.Limits.Admission.WithDefaults()
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Metrics == nil {
		c.Metrics = prometheus.NewRegistry()
	}
	c.Endpoints = slices.Clone(c.Endpoints)
	for i := range c.Endpoints {
		c.Endpoints[i] = c.Endpoints[i].WithDefaults(&c.Limits, c.Targets)
	}
	return c
}

// validate reports all faults of a configuration whose defaults are filled in.
func (c Config) validate() error {
	var faults setting.Faults
	check := setting.NewChecker(&faults)
	require := func(ok bool, key, detail string) {
		if !ok {
			check.Faultf(key, "%s", detail)
		}
	}
	require(c.Store != nil, "store", "there is none")
	require(len(c.Targets) > 0, "targets", "there are none: name at least one API to send actions to")
	require(c.DrainTimeout > 0, "drain timeout", "expected more than 0s")
	c.Auth.Check(check.In("auth"))
	c.Server.Check(check.In("server"))
	if c.Auth.Has(auth.ModeKeys) {
		require(c.Keys != nil, "auth", "the mode keys needs a source of keys")
	}
	if c.Auth.Has(auth.ModePassthrough) {
		require(c.Owner != nil, "auth", "the mode passthrough needs a key to hash credentials with")
		require(c.Sealed, "auth", "the mode passthrough stores the callers' credentials with their actions: set seal.keys, so that they do not lie in clear text in Redis")
		asked := slices.ContainsFunc(c.Policies, func(t batch.Target) bool { return t.Verify != nil })
		require(c.Verifier != nil || !asked, "verifier", "there is none, and a target is to be asked about credentials")
	}
	c.Limits.Check(check.In("limits"))
	c.Quotas.Check(check.In("quotas"))
	CheckEndpoints(check, c.Endpoints, &c.Limits, c.Targets)
	return faults.Err()
}
