// Package rdb talks to one Redis, whatever its form: a server, the master that sentinels know, a
// cluster, or a store in this process. It knows nothing of batches.
package rdb

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/batchd/batchd/internal/certs"
	"github.com/batchd/batchd/internal/setting"
)

// Config says where batches are kept.
type Config struct {
	// URL is "embedded", or that of a Redis, a Sentinel or a Cluster; see [Connect]. Defaults
	// to embedded.
	URL URL `yaml:"url"`
	// Password is the password of Redis, unless the URL has it. Defaults to none.
	Password setting.Secret `yaml:"password"`
	// TLS configures TLS with Redis, its sentinels and all nodes of its cluster, if the URL begins with rediss.
	// Defaults to the authorities of the system, and no certificate of the client.
	TLS certs.Client `yaml:"tls"`
}

// WithDefaults returns the settings with those replaced that are zero.
func (r Config) WithDefaults() Config {
	if r.URL == "" {
		r.URL = Embedded
	}
	return r
}

// URL is "embedded", or a URL with one of the schemes that [URL.Scheme] may
// return. It may hold a password, so it shows itself without.
type URL string

// Embedded is the [URL] of the store in this process, which forgets everything
// with it.
const Embedded = "embedded"

// Scheme returns the part before "://": redis, rediss, redis+sentinel,
// rediss+sentinel, redis+cluster or rediss+cluster; or nothing if there is none.
func (u URL) Scheme() string {
	scheme, _, ok := strings.Cut(string(u), "://")
	if !ok {
		return ""
	}
	return scheme
}

// Reveal returns the URL with its password.
func (u URL) Reveal() string { return string(u) }

// String implements fmt.Stringer.
func (u URL) String() string {
	if u == Embedded {
		return string(u)
	}
	return setting.RedactURL(string(u))
}

// Format implements fmt.Formatter.
func (u URL) Format(f fmt.State, _ rune) { setting.WriteState(f, u.String()) }

// MarshalText implements encoding.TextMarshaler.
func (u URL) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// Check reports what is wrong with the settings.
func (r Config) Check(c *setting.Checker) {
	c.Check("url", r.URL.check())
	if _, has, _ := r.URL.userinfo(); has && r.Password != "" {
		c.Faultf("password", "%s has a password, too: set it in one place", c.Where("url"))
	}
	r.TLS.Check(c.In("tls"))
	if key := r.TLS.FirstSet(); key != "" && !r.URL.encrypted() && r.URL.check() == nil && !c.IsBroken("url") {
		if r.URL == Embedded {
			c.Faultf("tls."+key, "%s is embedded, a store in this process, to which nothing connects: set redis.url, or remove redis.tls", c.Where("url"))
		} else {
			c.Faultf("tls."+key, "%s begins with %s://, and so the connections to Redis would not be encrypted: let it begin with %s://, or remove redis.tls",
				c.Where("url"), r.URL.Scheme(), strings.Replace(r.URL.Scheme(), "redis", "rediss", 1))
		}
	}
}

// encrypted reports whether the scheme of the URL asks for TLS.
func (u URL) encrypted() bool { return strings.HasPrefix(u.Scheme(), "rediss") }

// errUnverified refuses an option of go-redis.
var errUnverified = errors.New("the URL has the option skip_verify, with which any server could pretend to be Redis: remove it, and name the authority of Redis's certificate in redis.tls.ca_file")

// userinfo returns the URL up to the end of its user name, whether a password follows, and the rest from
// the @ on.
func (u URL) userinfo() (before string, password bool, after string) {
	scheme, rest, ok := strings.Cut(u.Reveal(), "://")
	if !ok {
		return u.Reveal(), false, ""
	}
	user := ""
	if at := strings.LastIndexByte(rest, '@'); at >= 0 {
		user, rest = rest[:at], rest[at+1:]
	}
	user, secret, _ := strings.Cut(user, ":")
	return scheme + "://" + user, secret != "", "@" + rest
}

// address returns the URL with the password.
func (r Config) address() string {
	before, has, after := r.URL.userinfo()
	if r.Password == "" || has || after == "" {
		return r.URL.Reveal()
	}
	return before + url.UserPassword("", r.Password.Reveal()).String() + after
}

// check checks the URL as [Connect] does, and its hosts. It repeats nothing but the scheme, since any other part
// may be the password.
func (u URL) check() error {
	if u == Embedded {
		return nil
	}
	const expected = "expected embedded, or a URL such as redis://localhost:6379/0"
	_, rest, ok := strings.Cut(u.Reveal(), "://")
	if !ok {
		return errors.New("the value is neither embedded nor a URL: " + expected)
	}
	known := []string{"redis", "rediss", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"}
	if !slices.Contains(known, u.Scheme()) {
		return fmt.Errorf("unknown scheme %q: expected %s", setting.Clip(u.Scheme()), setting.OneOf(known))
	}
	rest = rest[strings.LastIndexByte(rest, '@')+1:]
	hosts, more := rest, ""
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		hosts, more = rest[:i], rest[i:]
	}
	if _, query, ok := strings.Cut(more, "?"); ok {
		values, err := url.ParseQuery(query)
		if values.Has("skip_verify") {
			return errUnverified
		}
		if err == nil && len(values["addr"]) > 0 { // further nodes of a cluster
			hosts += "," + strings.Join(values["addr"], ",")
		}
	}
	for host := range strings.SplitSeq(hosts, ",") {
		name, port := host, "6379"
		if h, p, err := net.SplitHostPort(host); err == nil {
			name, port = h, p
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || name == "" || strings.Contains(strings.Trim(name, "[]"), ":") && !strings.HasPrefix(host, "[") {
			return errors.New("the URL has no usable host and port: " + expected)
		}
	}
	_, err := parseURL(u.Reveal())
	return err
}
