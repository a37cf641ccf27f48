package rdb

import (
	"context"
	"fmt"
	"net"
	"net/url"
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
	const expected = "expected embedded, redis://host:6379/0, rediss://…, redis+sentinel://host:26379/0?master=name or redis+cluster://host:6379,host:6379"
	if secure == nil {
		secure = NewSecure(nil, timeout/2, nil)
	}
	// url.Parse refuses a list of hosts with ports, so the list is cut out first.
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok {
		return nil, fmt.Errorf("the Redis URL has no scheme: %s", expected)
	}
	base, kind, _ := strings.Cut(scheme, "+")
	if (base != "redis" && base != secureScheme) || (kind != "" && kind != "sentinel" && kind != "cluster") {
		return nil, fmt.Errorf("unknown scheme %q of the Redis URL: %s", scheme, expected)
	}
	if kind == "" {
		opts, err := redis.ParseURL(raw)
		if err != nil {
			return nil, fmt.Errorf("the Redis URL cannot be parsed: %s", expected)
		}
		if opts.TLSConfig != nil && opts.TLSConfig.InsecureSkipVerify {
			return nil, errUnverified
		}
		if base == secureScheme {
			opts.Dialer = secure.Dial
		}
		return redis.NewClient(tune(opts, timeout, hook)), nil
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
		return nil, fmt.Errorf("the Redis URL cannot be parsed: %s", expected)
	}
	defaultPort := "6379"
	if kind == "sentinel" {
		defaultPort = "26379"
	}
	opts := &redis.UniversalOptions{
		DialTimeout: timeout / 2, ReadTimeout: timeout, WriteTimeout: timeout, PoolTimeout: timeout,
		PoolSize: PoolSize, PipelinePoolSize: onePool, ReadBufferSize: bufferSize, WriteBufferSize: bufferSize, ContextTimeoutEnabled: true, OnConnect: hook,
		DisableIdentity: true, MaintNotificationsConfig: noNotifications(),
	}
	for host := range strings.SplitSeq(hosts, ",") {
		if _, _, err := net.SplitHostPort(host); err != nil {
			host = net.JoinHostPort(strings.Trim(host, "[]"), defaultPort)
		}
		opts.Addrs = append(opts.Addrs, host)
	}
	opts.Username = u.User.Username()
	opts.Password, _ = u.User.Password()
	if base == secureScheme {
		opts.Dialer = secure.Dial // also for sentinels
	}
	if kind == "cluster" {
		if strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
			return nil, fmt.Errorf("a Redis cluster has no numbered databases or options: %s", expected)
		}
		opts.DialerRetries = 1 // so that the client turns to the replica of a lost node sooner
		return redis.NewClusterClient(opts.Cluster()), nil
	}
	query := u.Query()
	opts.MasterName = query.Get("master")
	if opts.MasterName == "" {
		return nil, fmt.Errorf("the Redis URL names no master: %s", expected)
	}
	opts.SentinelUsername, opts.SentinelPassword = query.Get("sentinel_username"), query.Get("sentinel_password")
	if db := strings.Trim(u.Path, "/"); db != "" {
		if opts.DB, err = strconv.Atoi(db); err != nil {
			return nil, fmt.Errorf("the Redis URL's database is not a number: %s", expected)
		}
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
