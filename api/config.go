package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/batchd/batchd/api/dialect"
	"github.com/batchd/batchd/internal/batch"
)

// Auth says how the owner of a request is found.
type Auth string

// The ways to find an owner.
const (
	// AuthNone: everybody is the same owner. An Authorization header is not
	// forwarded to the target.
	AuthNone Auth = "none"
	// AuthPassthrough: the Authorization header is required, is sent with every
	// action that has none of its own, and its keyed hash is the owner.
	AuthPassthrough Auth = "passthrough"
)

// Native is the dialect of an endpoint that speaks batchd's own format.
const Native = "native"

// Config is what a Server is made of. Store and Targets are required.
type Config struct {
	// Store keeps the batches.
	Store batch.Store
	// Targets are the names of the configured targets. Where there is only one,
	// a submission need not name it.
	Targets []string
	// Transactional are those of the targets that have transactions of their own.
	// For the others, the members of a group need undos. Defaults to none.
	Transactional []string
	// BasePaths are the paths of the targets' base URLs: below them, too, no action
	// may be a batch. Defaults to none.
	BasePaths []string
	// Auth says how the owner of a request is found. Defaults to AuthNone.
	Auth Auth
	// Owner turns a credential into an owner: a keyed hash, so that neither an
	// owner nor a log gives the credential away. Its error refuses the request
	// as one of the store's would. Required by AuthPassthrough.
	Owner func(ctx context.Context, credential string) (string, error)
	// Limits bound what a submission may ask for.
	Limits Limits
	// Admission bounds what one owner may submit, over all endpoints that have no
	// bound of their own. Defaults to none.
	Admission Admission
	// Webhooks says that a webhook secret is configured. Without one, a
	// submission that names a webhook is refused.
	Webhooks bool
	// AllowPrivateWebhooks accepts webhook URLs that name a private or loopback
	// address. Names are checked when they are dialled, not here.
	AllowPrivateWebhooks bool
	// Sealed says that the store encrypts actions. Without it, an action that
	// carries a credential is refused. Required by AuthPassthrough.
	Sealed bool
	// InMemory says that the store is in this process, and forgets all batches when
	// the process ends. Clients are told so. Defaults to a store that outlives it.
	InMemory bool
	// Endpoints are further paths that accept batches.
	Endpoints []Endpoint
	// DrainTimeout is how long Run waits for requests in flight once its
	// context has ended. Defaults to 20s.
	DrainTimeout time.Duration
	// Logger receives one line a request. Defaults to one that discards.
	Logger *slog.Logger
	// Version is what /healthz says.
	Version string
	// Metrics is where the API's metrics are registered, and what /metrics
	// serves. Defaults to a registry of the server's own.
	Metrics *prometheus.Registry
}

// Limits bound what a submission may ask for. The zero value has the defaults.
type Limits struct {
	// MaxActions is the most actions of one batch. Defaults to 100,000.
	MaxActions int
	// MaxBody bounds the body of a submission in bytes, after decompression.
	// Defaults to 256 MiB.
	MaxBody int64
	// MaxActionBody bounds the body of one action in bytes. Defaults to 1 MiB.
	MaxActionBody int64
	// ExpiresIn is the deadline of a batch that names none. Defaults to 24h.
	ExpiresIn time.Duration
	// MaxExpiresIn bounds the deadline that a submission may name. Defaults to 720h.
	MaxExpiresIn time.Duration
	// Retention is how long results are kept where a submission does not say.
	// Defaults to 24h.
	Retention time.Duration
	// MaxRetention bounds the retention that a submission may name. Defaults to 720h.
	MaxRetention time.Duration
	// MaxWait bounds "Prefer: wait". Defaults to 60s.
	MaxWait time.Duration
}

// Endpoint is a further path that accepts batches.
type Endpoint struct {
	// Path is where it is mounted, such as "/api/batch". A segment that starts
	// with a colon is a parameter. A trailing slash makes no difference.
	Path string
	// Dialect is the name of its wire format. Defaults to "native".
	Dialect string
	// Target is the target of every batch sent there.
	Target string
	// MaxActions is the most actions of one batch. Defaults to that of the
	// dialect, or else to the limit of the API.
	MaxActions int
	// Wait makes the endpoint answer with the results if they are there in
	// time; "Prefer: respond-async" and a shorter "Prefer: wait" override it.
	// Defaults to 0, which answers at once, and for a dialect, which has no such
	// answer, to 60s, but at most Limits.MaxWait.
	Wait time.Duration
	// CancelOnDisconnect cancels the batch of a client that hangs up while it
	// waits. Defaults to letting it go on.
	CancelOnDisconnect bool
	// Admission bounds what one owner may submit here. Defaults to that of the
	// API, counted over all.
	Admission Admission
}

// withDefaults returns the configuration with its zero values replaced.
func (c Config) withDefaults() Config {
	setDefault(&c.Auth, AuthNone)
	setDefault(&c.DrainTimeout, 20*time.Second)
	c.Limits = c.Limits.withDefaults()
	l := &c.Limits
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Metrics == nil {
		c.Metrics = prometheus.NewRegistry()
	}
	c.Endpoints = slices.Clone(c.Endpoints)
	for i := range c.Endpoints {
		ep := &c.Endpoints[i]
		setDefault(&ep.Dialect, Native)
		if def, foreign := dialect.Named(ep.Dialect); foreign {
			setDefault(&ep.MaxActions, min(def.MaxActions, l.MaxActions))
			setDefault(&ep.Wait, min(time.Minute, l.MaxWait))
		}
		setDefault(&ep.MaxActions, l.MaxActions)
	}
	return c
}

// DefaultLimits are those of a server whose configuration says nothing of them.
func DefaultLimits() Limits { return Limits{}.withDefaults() }

func (l Limits) withDefaults() Limits {
	setDefault(&l.MaxActions, 100_000)
	setDefault(&l.MaxBody, 256<<20)
	setDefault(&l.MaxActionBody, 1<<20)
	setDefault(&l.MaxExpiresIn, 720*time.Hour)
	setDefault(&l.MaxRetention, 720*time.Hour)
	setDefault(&l.ExpiresIn, min(24*time.Hour, l.MaxExpiresIn))
	setDefault(&l.Retention, min(24*time.Hour, l.MaxRetention))
	setDefault(&l.MaxWait, time.Minute)
	return l
}

func setDefault[T comparable](value *T, def T) {
	var zero T
	if *value == zero {
		*value = def
	}
}

// validate reports everything that is wrong with a configuration whose
// defaults are filled in.
func (c Config) validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(c.Store != nil, "store: there is none")
	check(len(c.Targets) > 0, "targets: there are none: name at least one API to send actions to")
	switch c.Auth {
	case AuthNone:
	case AuthPassthrough:
		check(c.Owner != nil, "auth: mode passthrough needs a key to hash credentials with")
		check(c.Sealed, "auth: mode passthrough stores the callers' credentials with their actions: set seal.keys, so that they do not lie in clear text in Redis")
	default:
		check(false, "auth: unknown mode %q: expected %q or %q", c.Auth, AuthNone, AuthPassthrough)
	}
	l := &c.Limits
	check(l.MaxActions > 0, "limits: max_actions is %d: expected at least 1", l.MaxActions)
	check(l.MaxBody > 0, "limits: max_body is %d bytes: expected at least 1", l.MaxBody)
	check(l.MaxActionBody > 0, "limits: max_action_body is %d bytes: expected at least 1", l.MaxActionBody)
	check(l.ExpiresIn > 0 && l.ExpiresIn <= l.MaxExpiresIn, "limits: expires_in is %s: expected more than 0 and at most max_expires_in (%s)", l.ExpiresIn, l.MaxExpiresIn)
	check(l.Retention > 0 && l.Retention <= l.MaxRetention, "limits: retention is %s: expected more than 0 and at most max_retention (%s)", l.Retention, l.MaxRetention)
	check(l.MaxWait > 0, "limits: max_wait is %s: expected more than 0", l.MaxWait)
	check(c.DrainTimeout > 0, "drain timeout is %s: expected more than 0", c.DrainTimeout)
	for i, ep := range c.Endpoints {
		check(strings.HasPrefix(ep.Path, "/"), "endpoints[%d]: the path %q does not start with /", i, ep.Path)
		check(slices.Contains(c.Targets, ep.Target), "endpoints[%d]: unknown target %q: expected one of %s", i, ep.Target, strings.Join(c.Targets, ", "))
		check(ep.MaxActions > 0, "endpoints[%d]: max_actions is %d: expected at least 1", i, ep.MaxActions)
		check(ep.Wait >= 0, "endpoints[%d]: wait is %s: expected 0 or more", i, ep.Wait)
		def, foreign := dialect.Named(ep.Dialect)
		check(foreign || ep.Dialect == Native, "endpoints[%d]: unknown dialect %q: expected %s or one of %s", i, ep.Dialect, Native, strings.Join(dialect.Names(), ", "))
		for _, param := range def.Params {
			check(slices.Contains(strings.Split(ep.Path, "/"), ":"+param), "endpoints[%d]: the path %q has no :%s, which the dialect %s needs", i, ep.Path, param, def.Name)
		}
	}
	return errors.Join(errs...)
}
