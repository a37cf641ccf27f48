package config

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/batchd/batchd/api/dialect"
	"github.com/batchd/batchd/internal/batch"
)

// Routes lists the built-in routes, which no endpoint may be mounted at or below.
func Routes() []string {
	return []string{"/batch", "/healthz", "/readyz", "/metrics", "/openapi.yaml", "/docs", "/ui"}
}

// check records what is wrong with one setting, unless that could not even be read.
func (l *loader) check(key string, err error) {
	if err != nil && !l.broken(key) {
		l.fault(key, "%v", err)
	}
}

// validate fills in the defaults that depend on other settings and checks
// everything that takes more than one value to see.
func (l *loader) validate() {
	c := l.cfg
	l.check("listen", l.checkListen("listen", c.Listen))
	l.check("worker.listen", l.checkListen("worker.listen", c.Worker.Listen))
	l.check("worker.drain", checkDuration(c.Worker.Drain, time.Second, time.Hour))
	l.check("redis.url", checkRedisURL(c.Redis.URL))
	l.check("webhooks.secret", checkWebhookSecret(c.Webhooks.Secret))
	l.validateSeal()
	l.validateLimits()
	l.validateTargets()
	l.validateEndpoints()
}

func (l *loader) validateSeal() {
	first := map[string]string{}
	for i, k := range l.cfg.Seal.Keys {
		key := index("seal.keys", i)
		if l.broken(key) {
			continue
		}
		// A variable holds several keys, so the message has to tell which.
		name := fmt.Sprintf("key %d", i+1)
		if sealKeyID.MatchString(k.ID) {
			name = fmt.Sprintf("key %q", k.ID)
		} else {
			l.check(key+".id", fmt.Errorf("%s has no usable id: expected 1 to 32 letters, digits, ., - or _", name))
		}
		if _, err := k.decode(); err != nil {
			l.check(key+".base64", fmt.Errorf("%s: %w", name, err))
		}
		if other, ok := first[k.ID]; ok && k.ID != "" {
			l.check(key+".id", fmt.Errorf("%s is there twice: the other is %s", name, l.seen(other)))
			continue
		}
		first[k.ID] = key
	}
	c := l.cfg
	if c.Auth.Mode == AuthPassthrough && c.Redis.URL != Embedded && len(c.Seal.Keys) == 0 && !l.broken("seal.keys") && !l.broken("seal.file") {
		l.fault("auth.mode", "passthrough stores the callers' credentials in Redis: set seal.keys, which encrypts them")
	}
}

// seen names a setting and its line, for a fault that tells of two.
func (l *loader) seen(key string) string {
	p := l.place(key)
	if p.line == 0 {
		return key
	}
	return fmt.Sprintf("%s (line %d)", key, p.line)
}

func (l *loader) validateLimits() {
	m := &l.cfg.Limits
	const longest = 365 * 24 * time.Hour
	l.check("limits.max_actions", checkInt(m.MaxActions, 1, 1_000_000))
	l.check("limits.max_body", checkSize(m.MaxBody, 1<<10, 64<<30))
	l.check("limits.max_action_body", checkSize(m.MaxActionBody, 1, 512<<20))
	l.check("limits.max_expires_in", checkDuration(m.MaxExpiresIn, time.Second, longest))
	l.check("limits.expires_in", checkDuration(m.ExpiresIn, time.Second, longest))
	l.check("limits.max_retention", checkDuration(m.MaxRetention, time.Second, longest))
	l.check("limits.retention", checkDuration(m.Retention, time.Second, longest))
	l.check("limits.max_wait", checkDuration(m.MaxWait, 0, time.Hour))
	l.check("limits.concurrent", checkInt(m.Concurrent, 0, 1_000_000))
	l.check("limits.when_exceeded", checkPerItem(m.WhenExceeded))
	ordered(l, "limits.max_action_body", m.MaxActionBody, "limits.max_body", m.MaxBody)
	ordered(l, "limits.expires_in", m.ExpiresIn, "limits.max_expires_in", m.MaxExpiresIn)
	ordered(l, "limits.retention", m.Retention, "limits.max_retention", m.MaxRetention)
}

// ordered faults the lesser of two settings where it exceeds the greater, at
// the one that somebody set.
func ordered[T ByteSize | time.Duration](l *loader, lesser string, value T, greater string, bound T) {
	switch {
	case value <= bound || l.broken(lesser) || l.broken(greater):
	case !l.isSet(lesser):
		l.fault(greater, "%s is less than %s, which is %s", scalar(bound), lesser, scalar(value))
	default:
		l.fault(lesser, "%s is more than %s, which is %s", scalar(value), greater, scalar(bound))
	}
}

func (l *loader) validateTargets() {
	targets := l.cfg.Targets
	if len(targets) == 0 && !l.broken("targets") && !l.broken(targetPath) {
		l.fault("targets", "there is no target: name one in the file, or give its URL as --%s or %s", targetPath, EnvName(targetPath))
	}
	first := map[string]string{}
	for i := range targets {
		t, key := &targets[i], index("targets", i)
		if l.broken(key) {
			continue
		}
		for _, f := range t.Validate() {
			l.check(key+pointerPath(f.Pointer), errors.New(f.Detail))
		}
		if t.Retry.Budget == 0 {
			l.check(key+".retry.budget", errors.New("the budget is 0s: expected more than 0 (attempts: 1 sends once only)"))
		}
		if other, ok := first[t.Name]; ok && t.Name != "" {
			l.check(key+".name", fmt.Errorf("the name %q is taken by %s", clip(t.Name), l.seen(other)))
			continue
		}
		first[t.Name] = key + ".name"
	}
}

// pointerPath turns a JSON pointer into the tail of a setting's path.
func pointerPath(pointer string) string {
	var b strings.Builder
	for token := range strings.SplitSeq(strings.TrimPrefix(pointer, "/"), "/") {
		if i, err := strconv.Atoi(token); err == nil {
			b.WriteString(index("", i))
		} else {
			b.WriteString("." + token)
		}
	}
	return b.String()
}

func (l *loader) validateEndpoints() {
	first := map[string]string{}
	for i := range l.cfg.Endpoints {
		e, key := &l.cfg.Endpoints[i], index("endpoints", i)
		if l.broken(key) {
			continue
		}
		l.check(key+".path", checkRoute(e.Path))
		if other, ok := first[routeKey(e.Path)]; ok && e.Path != "" {
			l.check(key+".path", fmt.Errorf("the path %q is taken by %s", clip(e.Path), l.seen(other)))
		} else {
			first[routeKey(e.Path)] = key + ".path"
		}
		l.validateEndpointTarget(key+".target", e)
		l.validateEndpointLimits(key, e)
	}
}

func (l *loader) validateEndpointTarget(key string, e *Endpoint) {
	var names []string
	for i := range l.cfg.Targets {
		if name := l.cfg.Targets[i].Name; name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	switch {
	case len(names) == 0: // faulted already
	case e.Target == "" && len(names) == 1:
		e.Target = names[0]
	case e.Target == "":
		l.check(key, fmt.Errorf("the target is missing: expected %s", oneOf(names)))
	case !slices.Contains(names, e.Target):
		l.check(key, fmt.Errorf("there is no target %q: expected %s", clip(e.Target), oneOf(names)))
	}
}

func (l *loader) validateEndpointLimits(key string, e *Endpoint) {
	limits := &l.cfg.Limits
	def, foreign := dialect.Named(string(e.Dialect))
	if !l.isSet(key + ".max_actions") {
		if e.MaxActions = limits.MaxActions; def.MaxActions > 0 {
			e.MaxActions = min(def.MaxActions, limits.MaxActions)
		}
	} else if !l.broken("limits.max_actions") {
		l.check(key+".max_actions", checkInt(e.MaxActions, 1, limits.MaxActions))
	}
	l.check(key+".limits.concurrent", checkInt(e.Limits.Concurrent, 0, 1_000_000))
	if e.Limits.WhenExceeded == ExceededPerItem && e.Dialect == DialectNative {
		l.check(key+".limits.when_exceeded", errors.New("the native format is stored as it is read, so it cannot refuse single items: say reject or queue"))
	}
	least := time.Duration(0)
	if foreign {
		least = time.Second
		if !l.isSet(key + ".wait") {
			e.Wait = min(time.Minute, limits.MaxWait)
		}
	}
	if !l.broken("limits.max_wait") {
		l.check(key+".wait", checkDuration(e.Wait, least, limits.MaxWait))
	}
	for _, param := range def.Params {
		if !slices.Contains(strings.Split(e.Path, "/"), ":"+param) {
			l.check(key+".path", fmt.Errorf("the dialect %s needs the parameter :%s in its path", e.Dialect, param))
		}
	}
}

// checkPerItem refuses per_item for the native route, which cannot do it.
func checkPerItem(w WhenExceeded) error {
	if w == ExceededPerItem {
		return errors.New("per_item is for endpoints with a dialect: say reject or queue here, and per_item under an endpoint's limits")
	}
	return nil
}

// routeParam is a segment of a route that stands for any one.
var routeParam = regexp.MustCompile(`^:[A-Za-z_][A-Za-z0-9_]*$`)

// routeKey returns the same text for routes that take in the same paths.
func routeKey(path string) string {
	segments := strings.Split(strings.TrimSuffix(path, "/"), "/")
	for i, segment := range segments {
		if strings.HasPrefix(segment, ":") {
			segments[i] = ":"
		}
	}
	return strings.Join(segments, "/")
}

// checkRoute checks where an endpoint is to be mounted.
func checkRoute(path string) error {
	if err := batch.ValidatePath(path); err != nil {
		return err
	}
	if strings.Contains(path, "//") {
		return fmt.Errorf("the path %q holds an empty segment: write a single / between segments", clip(path))
	}
	for i, segment := range strings.Split(strings.Trim(path, "/"), "/") {
		switch {
		case i > 0 && routeParam.MatchString(segment):
		case i == 0 && strings.HasPrefix(segment, ":"):
			return fmt.Errorf("the path %q starts with a parameter, which would take in built-in routes: expected a plain segment in front", clip(path))
		default:
			if at := strings.IndexAny(segment, ":*%"); at >= 0 {
				return fmt.Errorf("the path %q holds a %q: expected plain segments and parameters such as :instance", clip(path), segment[at])
			}
		}
	}
	if strings.Trim(path, "/") == "" {
		return errors.New("the path is the root: expected for example /crm/batch")
	}
	for _, route := range Routes() {
		if path == route || strings.HasPrefix(path, route+"/") {
			return fmt.Errorf("the path %q belongs to the built-in %s", clip(path), route)
		}
	}
	return nil
}

const expectedAddress = "expected host:port, for example 127.0.0.1:8080"

// checkListen checks an address to listen on. Port 0, which takes a free one, is for
// tests and demos: a variable or a flag may say it, a file may not.
func (l *loader) checkListen(key, address string) error {
	if err := checkAddress(address); err != nil {
		return err
	}
	if _, port, _ := net.SplitHostPort(address); port == "0" && !isOverride(l.place(key).file) {
		return fmt.Errorf("the port of %q is 0: %s", clip(address), expectedAddress)
	}
	return nil
}

func checkAddress(address string) error {
	const expected = expectedAddress
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("cannot read %q as an address: %s", clip(address), expected)
	}
	if strings.ContainsAny(host, " /@") {
		return fmt.Errorf("the host of %q is not usable: %s", clip(address), expected)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("the port of %q is not a number up to 65535: %s", clip(address), expected)
	} else if strconv.FormatUint(n, 10) != port {
		return fmt.Errorf("the port of %q is not plain: %s", clip(address), expected)
	}
	return nil
}

// checkRedisURL checks the scheme and the hosts; the client checks the rest. It
// repeats nothing but the scheme, since any other part may be the password.
func checkRedisURL(u RedisURL) error {
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
		return fmt.Errorf("unknown scheme %q: expected %s", clip(u.Scheme()), oneOf(known))
	}
	rest = rest[strings.LastIndexByte(rest, '@')+1:]
	hosts, more := rest, ""
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		hosts, more = rest[:i], rest[i:]
	}
	if _, query, ok := strings.Cut(more, "?"); ok {
		if values, err := url.ParseQuery(query); err == nil && len(values["addr"]) > 0 { // further nodes of a cluster
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
	return nil
}

// checkWebhookSecret checks a secret against Standard Webhooks, "Signature scheme".
func checkWebhookSecret(s Secret) error {
	const (
		prefix   = "whsec_"
		least    = 24
		most     = 64
		expected = "expected " + prefix + " and the base64 of 24 to 64 bytes: make one with: echo " + prefix + "$(openssl rand -base64 32)"
	)
	if s == "" {
		return nil
	}
	encoded, ok := strings.CutPrefix(s.Reveal(), prefix)
	if !ok {
		return errors.New("the secret does not start with " + prefix + ": " + expected)
	}
	raw, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return errors.New("the secret is not valid base64: " + expected)
	}
	if len(raw) < least || len(raw) > most {
		return fmt.Errorf("the secret has %d bytes: %s", len(raw), expected)
	}
	return nil
}

func checkInt(n, least, most int) error {
	if n < least || n > most {
		return fmt.Errorf("the number is %d: expected %d to %d", n, least, most)
	}
	return nil
}

func checkSize(s, least, most ByteSize) error {
	if s < least || s > most {
		return fmt.Errorf("the size is %s: expected %s to %s", s, least, most)
	}
	return nil
}

func checkDuration(d, least, most time.Duration) error {
	if d < least || d > most {
		return fmt.Errorf("the duration is %s: expected %s to %s", short(d), short(least), short(most))
	}
	return nil
}
