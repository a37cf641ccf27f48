package rdb

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

const (
	// PoolSize is the number of connections to a server, unless the URL gives another number.
	PoolSize = 64
	// onePool makes go-redis send pipelines over the same connections as single commands. Its
	// separate pool for pipelines is empty at first, so each of the first ten concurrent
	// exchanges would open a connection, which takes three more round trips.
	onePool = -1
	// bufferSize is that of a connection's buffers, in bytes: much is sent in pipelines.
	bufferSize = 64 << 10
)

// address is what a URL says: the options of one server, or those of a cluster or of sentinels.
type address struct {
	one     *redis.Options
	many    *redis.UniversalOptions
	cluster bool
	secure  bool
}

const expectedURL = "expected embedded, redis://host:6379/0, rediss://…, redis+sentinel://host:26379/0?master=name or redis+cluster://host:6379,host:6379"

// parseURL parses a URL; see [Connect]. Errors do not repeat it, since it may hold a password.
func parseURL(raw string) (address, error) {
	// url.Parse refuses a list of hosts with ports, so the list is cut out first.
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok {
		return address{}, fmt.Errorf("the Redis URL has no scheme: %s", expectedURL)
	}
	base, kind, _ := strings.Cut(scheme, "+")
	if (base != "redis" && base != secureScheme) || (kind != "" && kind != "sentinel" && kind != "cluster") {
		return address{}, fmt.Errorf("unknown scheme %q of the Redis URL: %s", scheme, expectedURL)
	}
	a := address{cluster: kind == "cluster", secure: base == secureScheme}
	if ignoresPart(raw) {
		return address{}, fmt.Errorf("the Redis URL has a fragment, or options that cannot be parsed: %s", expectedURL)
	}
	if kind == "" {
		var err error
		if a.one, err = redis.ParseURL(raw); err != nil {
			return address{}, fmt.Errorf("the Redis URL %s: %s", faultOf(err), expectedURL)
		}
		if a.one.TLSConfig != nil && a.one.TLSConfig.InsecureSkipVerify {
			return address{}, errUnverified
		}
		return a, nil
	}
	userinfo, hosts := "", rest
	if i := strings.IndexAny(hosts, "/?"); i >= 0 {
		hosts = hosts[:i]
	}
	tail := rest[len(hosts):]
	if i := strings.LastIndex(hosts, "@"); i >= 0 {
		userinfo, hosts = hosts[:i+1], hosts[i+1:]
	}
	u, err := url.Parse(base + "://" + userinfo + "host" + tail)
	if err != nil || hosts == "" {
		return address{}, fmt.Errorf("the Redis URL cannot be parsed: %s", expectedURL)
	}
	a.many = new(redis.UniversalOptions)
	defaultPort := "6379"
	if kind == "sentinel" {
		defaultPort = "26379"
	}
	for host := range strings.SplitSeq(hosts, ",") {
		if _, _, err := net.SplitHostPort(host); err != nil {
			host = net.JoinHostPort(strings.Trim(host, "[]"), defaultPort)
		}
		a.many.Addrs = append(a.many.Addrs, host)
	}
	a.many.Username = u.User.Username()
	a.many.Password, _ = u.User.Password()
	if a.cluster {
		if strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
			return address{}, fmt.Errorf("a Redis cluster has no numbered databases or options: %s", expectedURL)
		}
		return a, nil
	}
	query := u.Query()
	for name, values := range query {
		if !slices.Contains([]string{"master", "sentinel_username", "sentinel_password"}, name) {
			return address{}, errors.New("the Redis URL has an unknown option: with sentinels, expected master, sentinel_username and sentinel_password alone")
		}
		if len(values) > 1 {
			return address{}, fmt.Errorf("the Redis URL has the option %s twice: set it once", name)
		}
	}
	a.many.MasterName = query.Get("master")
	if a.many.MasterName == "" {
		return address{}, fmt.Errorf("the Redis URL names no master: %s", expectedURL)
	}
	a.many.SentinelUsername, a.many.SentinelPassword = query.Get("sentinel_username"), query.Get("sentinel_password")
	if db := strings.Trim(u.Path, "/"); db != "" {
		if a.many.DB, err = strconv.Atoi(db); err != nil || a.many.DB < 0 {
			return address{}, fmt.Errorf("the Redis URL's database is not a number: %s", expectedURL)
		}
	}
	return a, nil
}

// ignoresPart reports whether a URL has a part that its parsers would ignore.
func ignoresPart(raw string) bool {
	raw = raw[strings.LastIndexByte(raw, '@')+1:] // before it is the password
	rest, _, fragment := strings.Cut(raw, "#")
	_, query, _ := strings.Cut(rest, "?")
	_, err := url.ParseQuery(query)
	return fragment || err != nil
}

// faultOf says which part of a URL go-redis could not parse, without what it is.
func faultOf(err error) string {
	switch text := err.Error(); {
	case strings.HasPrefix(text, "redis: invalid database number"), strings.HasPrefix(text, "redis: invalid URL path"):
		return "has a path that is not the number of a database"
	case strings.HasPrefix(text, "redis: unexpected option"):
		return "has an unknown option"
	case strings.HasPrefix(text, "redis: invalid"):
		return "has an option with a value that cannot be read"
	}
	return "cannot be parsed"
}

// Connect returns a client for a URL. The schemes are
//
//	redis://[user:password@]host[:port][/db]      one server; rediss:// with TLS
//	redis+sentinel://host,host:port/db?master=n   the master that the sentinels know as n
//	redis+cluster://host:port,host:port           a cluster; rediss+… with TLS for both
//
// Errors do not repeat the URL, since it may hold a password. Each read and each write has the given
// timeout, and the opening of a connection half of it. The hook is called with every new connection,
// before it is used; nil is none. Secure opens the connections with TLS; nil trusts the authorities of the system.
// Connect itself opens no connection.
func Connect(raw string, timeout time.Duration, secure *Secure, hook func(context.Context, *redis.Conn) error) (redis.UniversalClient, error) {
	a, err := parseURL(raw)
	if err != nil {
		return nil, err
	}
	if secure == nil {
		secure = NewSecure(nil, timeout/2, nil)
	}
	if opts := a.one; opts != nil {
		if a.secure {
			opts.Dialer = secure.Dial
		}
		return redis.NewClient(tune(opts, timeout, hook)), nil
	}
	opts := a.many
	opts.DialTimeout, opts.ReadTimeout, opts.WriteTimeout, opts.PoolTimeout = timeout/2, timeout, timeout, timeout
	opts.PoolSize, opts.PipelinePoolSize, opts.ReadBufferSize, opts.WriteBufferSize = PoolSize, onePool, bufferSize, bufferSize
	opts.ContextTimeoutEnabled, opts.OnConnect = true, hook
	opts.DisableIdentity, opts.MaintNotificationsConfig = true, noNotifications()
	if a.secure {
		opts.Dialer = secure.Dial // also for sentinels
	}
	if a.cluster {
		opts.DialerRetries = 1 // so that the client turns to the replica of a lost node sooner
		return redis.NewClusterClient(opts.Cluster()), nil
	}
	return redis.NewFailoverClient(opts.Failover()), nil
}

func tune(o *redis.Options, timeout time.Duration, hook func(context.Context, *redis.Conn) error) *redis.Options {
	o.OnConnect = hook
	o.DialTimeout, o.ReadTimeout, o.WriteTimeout, o.PoolTimeout = timeout/2, timeout, timeout, timeout
	o.ContextTimeoutEnabled = true
	o.DisableIdentity, o.MaintNotificationsConfig = true, noNotifications()
	if o.PoolSize == 0 {
		o.PoolSize = PoolSize
	}
	o.PipelinePoolSize, o.ReadBufferSize, o.WriteBufferSize = onePool, bufferSize, bufferSize
	return o
}

// noNotifications turns off a request that go-redis otherwise sends with each new connection: that
// the server announces maintenance. Only Redis Enterprise does, and the request costs a round trip.
// So does the one with the client's name and version.
func noNotifications() *maintnotifications.Config {
	return &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
}
