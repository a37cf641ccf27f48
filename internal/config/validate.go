package config

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"

	"github.com/batchd/batchd/api"
	"github.com/batchd/batchd/api/auth"
	"github.com/batchd/batchd/internal/audit"
	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/certs"
	"github.com/batchd/batchd/internal/setting"
	"github.com/batchd/batchd/queue/rdb"
)

// validate fills in the defaults that depend on other settings, lets every package
// check its own settings, and makes the checks that concern several packages.
func (l *loader) validate() {
	c, check := l.cfg, setting.NewChecker(l)
	check.Check("listen", l.checkListen("listen", c.Listen))
	check.Check("worker.listen", l.checkListen("worker.listen", c.Worker.Listen))
	check.Check("listen", c.Auth.CheckListener(c.Listen))
	if c.Monitor.Listen != "" {
		check.Check("monitor.listen", l.checkListen("monitor.listen", c.Monitor.Listen))
	}
	for _, key := range []string{"server.tls.cert_file", "server.tls.key_file", "server.tls.client_ca_file", "redis.tls.ca_file", "redis.tls.cert_file", "redis.tls.key_file"} {
		l.resolve(key)
	}
	c.Server.Check(check.In("server"))
	if c.Audit.Output != audit.Stdout {
		l.resolve("audit.output")
	}
	c.Audit.Check(check.In("audit"))
	c.Worker.Check(check.In("worker"))
	c.Redis.Check(check.In("redis"))
	c.Redis.TLS.CheckFiles(check.In("redis").In("tls"))
	if c.Webhooks.AllowPrivate && !l.IsSet("webhooks.ports") {
		c.Webhooks.Ports = nil
	}
	c.Webhooks.Check(check.In("webhooks"))
	c.Auth.Check(check.In("auth"))
	c.Seal.Check(check.In("seal"))
	if c.Auth.Has(auth.ModePassthrough) && c.Redis.URL != rdb.Embedded && len(c.Seal.Keys) == 0 && !check.IsBroken("seal.keys", "seal.file") {
		check.Faultf("auth.modes", "passthrough stores the callers' credentials in Redis: set seal.keys, which encrypts them")
	}
	if c.Auth.JWT.CAFile != "" {
		l.resolve("auth.jwt.ca_file")
		if _, err := certs.Authorities(c.Auth.JWT.CAFile); err != nil {
			check.Check("auth.jwt.ca_file", err)
		}
	}
	if c.Auth.KeysFile != "" {
		l.resolve("auth.keys_file")
		if _, err := loadKeys(c.Auth.KeysFile); err != nil {
			check.Check("auth.keys_file", err)
		}
	} else if c.Auth.Has(auth.ModeKeys) && c.Redis.URL == rdb.Embedded {
		check.Faultf("auth.modes", "keys has no keys to check: set auth.keys_file, or redis.url to keep them in Redis (batchd keys create makes one)")
	}
	c.Limits.Check(check.In("limits"))
	c.Quotas.Check(check.In("quotas"))
	l.validateTargets(check)
	names := c.targetNames()
	for i := range c.Endpoints {
		complete(l, index("endpoints", i), &c.Endpoints[i], func(e api.Endpoint) api.Endpoint { return e.WithDefaults(&c.Limits, names) })
	}
	api.CheckEndpoints(check, c.Endpoints, &c.Limits, names)
}

// validateFiles checks the files that a process with the API opens when it starts.
func (l *loader) validateFiles() {
	check := setting.NewChecker(l)
	l.cfg.Server.TLS.CheckFiles(check.In("server").In("tls"))
	l.cfg.Audit.CheckFile(check.In("audit"))
}

// resolve makes a relative path in the file relative to the directory of the file.
func (l *loader) resolve(key string) {
	path := lookup(reflect.ValueOf(l.cfg).Elem(), key)
	if name := path.String(); name != "" && !filepath.IsAbs(name) && !isOverride(l.place(key).file) {
		path.SetString(filepath.Join(filepath.Dir(l.places[""].file), name))
	}
}

// complete fills in the defaults of an item's unset settings, which may depend on those
// that are set.
func complete[T any](l *loader, key string, item *T, withDefaults func(T) T) {
	bare := *item
	l.eachUnset(key, reflect.ValueOf(&bare).Elem(), reflect.ValueOf(item).Elem(), func(bare, _ reflect.Value) { bare.SetZero() })
	full := withDefaults(bare)
	l.eachUnset(key, reflect.ValueOf(&full).Elem(), reflect.ValueOf(item).Elem(), func(full, item reflect.Value) { item.Set(full) })
}

// eachUnset calls do with each unset setting in two structs of one type.
func (l *loader) eachUnset(key string, a, b reflect.Value, do func(a, b reflect.Value)) {
	others := fieldsOf(b)
	for i, f := range fieldsOf(a) {
		path := join(key, f.key)
		switch {
		case isMapping(f.value.Type()):
			l.eachUnset(path, f.value, others[i].value, do)
		case !l.IsSet(path):
			do(f.value, others[i].value)
		}
	}
}

func (l *loader) validateTargets(check *setting.Checker) {
	targets := l.cfg.Targets
	if len(targets) == 0 && !check.IsBroken("targets", targetPath) {
		check.Faultf("targets", "there is no target: name one in the file, or give its URL as --%s or %s", targetPath, EnvName(targetPath))
	}
	first := map[string]string{}
	for i := range targets {
		t, key := &targets[i], index("targets", i)
		if check.IsBroken(key) {
			continue
		}
		complete(l, key, t, batch.Target.WithDefaults)
		for _, f := range t.Validate() {
			check.Check(key+pointerPath(f.Pointer), errors.New(f.Detail))
		}
		if t.Retry.Budget == 0 {
			check.Check(key+".retry.budget", errors.New("the budget is 0s: expected more than 0 (attempts: 1 sends once only)"))
		}
		if other, ok := first[t.Name]; ok && t.Name != "" {
			check.Faultf(key+".name", "the name %q is taken by %s", setting.Clip(t.Name), check.Where(other))
			continue
		}
		first[t.Name] = key + ".name"
	}
}

// pointerPath converts a JSON pointer to the end of a setting's path.
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

const expectedAddress = "expected host:port, for example 127.0.0.1:8080"

// checkListen checks an address to listen on. Port 0, which takes a free port, is for
// tests and demos: a variable or a flag may set it, a file may not.
func (l *loader) checkListen(key, address string) error {
	if err := checkAddress(address); err != nil {
		return err
	}
	if _, port, _ := net.SplitHostPort(address); port == "0" && !isOverride(l.place(key).file) {
		return fmt.Errorf("the port of %q is 0: %s", setting.Clip(address), expectedAddress)
	}
	return nil
}

func checkAddress(address string) error {
	const expected = expectedAddress
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("cannot read %q as an address: %s", setting.Clip(address), expected)
	}
	if strings.ContainsAny(host, " /@") {
		return fmt.Errorf("the host of %q is not usable: %s", setting.Clip(address), expected)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("the port of %q is not a number up to 65535: %s", setting.Clip(address), expected)
	} else if strconv.FormatUint(n, 10) != port {
		return fmt.Errorf("the port of %q is not plain: %s", setting.Clip(address), expected)
	}
	return nil
}
