package api

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/batchd/batchd/api/dialect"
	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/setting"
)

// Dialect is the name of an endpoint's wire format.
type Dialect string

// Native is batchd's own format.
const Native Dialect = "native"

// Choices implements [setting.Choice].
func (Dialect) Choices() []string { return append([]string{string(Native)}, dialect.Names()...) }

// Endpoint is an additional path that accepts batches.
type Endpoint struct {
	// Path is the endpoint's path, such as "/api/batch". A segment such as ":instance" is
	// a parameter, which some dialects need. A trailing slash makes no difference.
	Path string `yaml:"path"`
	// Dialect is its wire format: native, asana, requests, syncano or primaerp. Defaults
	// to native.
	Dialect Dialect `yaml:"dialect"`
	// Target is the name of the target of the endpoint's batches. Defaults to the only
	// target, if there is exactly one.
	Target string `yaml:"target"`
	// MaxActions is the most actions of one batch. Defaults to the limit of the dialect
	// (10 for asana, 50 for syncano, 100 for primaerp) or that of the server's limits,
	// whichever is lower.
	MaxActions int `yaml:"max_actions"`
	// Admission bounds what one owner may submit here. Without a rate and a number of its
	// own, the server's limit applies, over all such endpoints together; in the mode
	// passthrough a credential is another owner at each.
	Admission Admission `yaml:"limits"`
	// Wait makes the endpoint answer with the results if the batch ends in time.
	// "Prefer: respond-async" and a shorter "Prefer: wait" override it. Defaults to 0s,
	// which answers at once. A dialect has no such answer: there it defaults to
	// Limits.MaxWait, but at most to 60s.
	Wait time.Duration `yaml:"wait"`
	// CancelOnDisconnect cancels the batch of a client that hangs up while it waits.
	// Defaults to false, which lets the batch go on.
	CancelOnDisconnect bool `yaml:"cancel_on_disconnect"`
}

// WithDefaults returns the endpoint with its zero values replaced. The defaults follow
// from the limits and from the names of the targets.
func (e Endpoint) WithDefaults(limits *Limits, targets []string) Endpoint {
	e.Dialect = cmp.Or(e.Dialect, Native)
	if len(targets) == 1 {
		e.Target = cmp.Or(e.Target, targets[0])
	}
	e.Admission = e.Admission.WithDefaults()
	if def, foreign := dialect.Named(string(e.Dialect)); foreign {
		e.MaxActions = cmp.Or(e.MaxActions, min(def.MaxActions, limits.MaxActions))
		e.Wait = cmp.Or(e.Wait, min(time.Minute, limits.MaxWait))
	}
	e.MaxActions = cmp.Or(e.MaxActions, limits.MaxActions)
	return e
}

// CheckEndpoints reports the faults of endpoints whose defaults are filled in. It also
// checks limits, to which the checker must lead.
func CheckEndpoints(c *setting.Checker, endpoints []Endpoint, limits *Limits, targets []string) {
	first := map[string]string{}
	for i := range endpoints {
		e, key := &endpoints[i], fmt.Sprintf("endpoints[%d]", i)
		if c.IsBroken(key) {
			continue
		}
		c.Check(key+".path", checkRoute(e.Path))
		if other, ok := first[routeKey(e.Path)]; ok && e.Path != "" {
			c.Faultf(key+".path", "the path %q is taken by %s", setting.Clip(e.Path), c.Where(other))
		} else {
			first[routeKey(e.Path)] = key + ".path"
		}
		switch {
		case len(targets) == 0: // already reported as a fault of the targets
		case e.Target == "":
			c.Faultf(key+".target", "the target is missing: expected %s", setting.OneOf(targets))
		case !slices.Contains(targets, e.Target):
			c.Faultf(key+".target", "there is no target %q: expected %s", setting.Clip(e.Target), setting.OneOf(targets))
		}
		e.checkBounds(c, key, limits)
	}
}

func (e Endpoint) checkBounds(c *setting.Checker, key string, limits *Limits) {
	c.Choice(key+".dialect", string(e.Dialect), e.Dialect.Choices())
	if !c.IsBroken("limits.max_actions") && c.IsSet(key+".max_actions") {
		c.Int(key+".max_actions", e.MaxActions, 1, limits.MaxActions)
	}
	e.Admission.Check(c.In(key + ".limits"))
	if e.Admission.WhenExceeded == PerItem && e.Dialect == Native {
		c.Check(key+".limits.when_exceeded", errors.New("the native format is stored as it is read, so it cannot refuse single items: set reject or queue"))
	}
	def, foreign := dialect.Named(string(e.Dialect))
	switch {
	case c.IsBroken("limits.max_wait"):
	case !foreign:
		c.Duration(key+".wait", e.Wait, 0, limits.MaxWait)
	case limits.MaxWait < time.Second:
		c.Faultf(key+".wait", "the dialect %s answers with results only, so it has to wait for them: set limits.max_wait to 1s or more", e.Dialect)
	default:
		c.Duration(key+".wait", e.Wait, time.Second, limits.MaxWait)
	}
	for _, param := range def.Params {
		if !slices.Contains(strings.Split(e.Path, "/"), ":"+param) {
			c.Faultf(key+".path", "the dialect %s needs the parameter :%s in its path", e.Dialect, param)
		}
	}
}

// Routes lists the built-in routes. No endpoint may be mounted at or below one of them.
func Routes() []string {
	return []string{"/batch", "/healthz", "/readyz", "/metrics", "/openapi.yaml", "/webhook-secret", "/whoami", "/session", "/docs", "/ui"}
}

// routeParam matches a segment of a route that is a parameter.
var routeParam = regexp.MustCompile(`^:[A-Za-z_][A-Za-z0-9_]*$`)

// routeKey returns equal texts for routes that match the same paths.
func routeKey(path string) string {
	segments := strings.Split(strings.TrimSuffix(path, "/"), "/")
	for i, segment := range segments {
		if strings.HasPrefix(segment, ":") {
			segments[i] = ":"
		}
	}
	return strings.Join(segments, "/")
}

// checkRoute checks the path of an endpoint.
func checkRoute(path string) error {
	if err := batch.ValidatePath(path); err != nil {
		return err
	}
	if strings.Contains(path, "//") {
		return fmt.Errorf("the path %q holds an empty segment: write a single / between segments", setting.Clip(path))
	}
	for i, segment := range strings.Split(strings.Trim(path, "/"), "/") {
		switch {
		case i > 0 && routeParam.MatchString(segment):
		case i == 0 && strings.HasPrefix(segment, ":"):
			return fmt.Errorf("the path %q starts with a parameter, which would take in built-in routes: expected a plain segment in front", setting.Clip(path))
		default:
			if at := strings.IndexAny(segment, ":*%"); at >= 0 {
				return fmt.Errorf("the path %q holds a %q: expected plain segments and parameters such as :instance", setting.Clip(path), segment[at])
			}
		}
	}
	if strings.Trim(path, "/") == "" {
		return errors.New("the path is the root: expected for example /crm/batch")
	}
	for _, route := range Routes() {
		if path == route || strings.HasPrefix(path, route+"/") {
			return fmt.Errorf("the path %q belongs to the built-in %s", setting.Clip(path), route)
		}
	}
	return nil
}
