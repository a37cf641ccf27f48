package api

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/gin-gonic/gin"

	"github.com/batchd/batchd/api/auth"
	"github.com/batchd/batchd/api/dialect"
	"github.com/batchd/batchd/internal/audit"
)

// route is a route of the API. Every route declares the scope that its callers need.
type route struct {
	method string
	path   string
	scope  auth.Scope
	handle handler
	// endpoint is the endpoint that the route belongs to, or nil.
	endpoint *Endpoint
	// dialect is the format of the route's answers, errors included. Nil is the native format.
	dialect dialect.Dialect
	// noHead: a GET route that does not answer HEAD.
	noHead bool
	// audit is the event that the route leaves in the audit log, and quiet restricts that; see decision.
	audit audit.Name
	quiet bool
}

// table shows the whole API on one screen.
func (s *Server) table() []route {
	routes := []route{
		{method: "GET", path: "/healthz", scope: auth.Open, audit: audit.Unaudited, handle: s.health},
		{method: "GET", path: "/readyz", scope: auth.Open, audit: audit.Unaudited, handle: s.ready},
		{method: "GET", path: "/openapi.yaml", scope: auth.Open, audit: audit.Unaudited, handle: openAPI},

		{method: "POST", path: "/batch", scope: auth.Submit, audit: audit.BatchSubmit, handle: s.submit(nil)},
		{method: "GET", path: "/batch", scope: auth.Read, audit: audit.BatchList, quiet: true, handle: s.list},
		{method: "GET", path: "/batch/:id", scope: auth.Read, audit: audit.BatchRead, quiet: true, handle: s.get},
		{method: "DELETE", path: "/batch/:id", scope: auth.Cancel, audit: audit.BatchDelete, handle: s.erase},
		{method: "GET", path: "/batch/:id/results", scope: auth.Read, audit: audit.ResultsRead, handle: s.results},
		{method: "GET", path: "/batch/:id/events", scope: auth.Read, audit: audit.BatchEvents, quiet: true, handle: s.events, noHead: true},
		{method: "POST", path: "/batch/:id/cancel", scope: auth.Cancel, audit: audit.BatchCancel, handle: s.cancel},
		{method: "POST", path: "/batch/:id/retry", scope: auth.Submit, audit: audit.BatchRetry, handle: s.retry},
		{method: "GET", path: "/batch/:id/webhook", scope: auth.Read, audit: audit.DeliveriesRead, quiet: true, handle: s.deliveries},
		{method: "POST", path: "/session", scope: auth.Open, audit: audit.SessionCreate, handle: s.signIn},
		{method: "GET", path: "/session", scope: auth.Any, audit: audit.Unaudited, handle: s.showSession},
		{method: "DELETE", path: "/session", scope: auth.Open, audit: audit.SessionEnd, handle: s.signOut},
		{method: "GET", path: "/session/login", scope: auth.Open, audit: audit.Unaudited, handle: s.login, noHead: true},
		{method: "GET", path: auth.CallbackPath, scope: auth.Open, audit: audit.SessionCreate, handle: s.callback, noHead: true},
		{method: "GET", path: "/whoami", scope: auth.Any, audit: audit.Unaudited, handle: s.whoami},
		{method: "GET", path: "/webhook-secret", scope: auth.Read, audit: audit.SecretRead, handle: s.webhookSecret},
		{method: "POST", path: "/batch/:id/webhook/redeliver", scope: auth.Submit, audit: audit.WebhookRedeliver, handle: s.redeliver},
	}
	if !s.cfg.MetricsElsewhere {
		routes = append(routes, route{method: "GET", path: "/metrics", scope: s.operatorScope(), audit: audit.MetricsRead, quiet: true, handle: s.showMetrics})
	}
	for i := range s.cfg.Endpoints {
		routes = append(routes, s.mounted(&s.cfg.Endpoints[i])...)
	}
	return routes
}

// mounted returns the routes of an endpoint.
func (s *Server) mounted(ep *Endpoint) (routes []route) {
	def, foreign := dialect.Named(string(ep.Dialect))
	bare := strings.TrimSuffix(ep.Path, "/")
	for _, path := range []string{bare, bare + "/"} {
		if !foreign {
			routes = append(routes, route{method: http.MethodPost, path: path, scope: auth.Submit, audit: audit.BatchSubmit, handle: s.submit(ep), endpoint: ep})
			continue
		}
		routes = append(routes, route{method: http.MethodPost, path: path, scope: auth.Submit, audit: audit.BatchSubmit, handle: s.translate(ep, &def), endpoint: ep, dialect: def.Dialect})
		for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions} {
			routes = append(routes, route{method: method, path: path, scope: auth.Open, audit: audit.Unaudited, handle: postOnly, endpoint: ep, dialect: def.Dialect, noHead: true})
		}
	}
	return routes
}

func postOnly(*gin.Context) error {
	return refuse(kindMethod, "batches are sent with POST").with("Allow", http.MethodPost)
}

// routes returns a router of all routes.
func (s *Server) routes() (*gin.Engine, error) {
	gin.SetMode(gin.ReleaseMode)
	e := gin.New()
	e.HandleMethodNotAllowed = true
	e.RedirectTrailingSlash = false // many clients redirect a POST without its body
	e.UseEscapedPath = true         // otherwise an id with %2F would become two segments
	e.ForwardedByClientIP = false
	if err := e.SetTrustedProxies(nil); err != nil {
		return nil, err
	}
	e.Use(s.observe, s.recoverPanic, withBudget)
	if s.cfg.Auth.Has(auth.ModeNone) {
		e.Use(s.handle(s.guard))
	}
	if len(s.cfg.Server.CORS.Origins) > 0 {
		e.Use(s.cors)
	}
	e.NoRoute(s.handle(s.noRoute))
	e.NoMethod(s.handle(noMethod))
	for _, r := range s.table() {
		if err := s.mount(e, &r); err != nil {
			return nil, err
		}
	}
	return e, nil
}

// mount adds a route. The path of an endpoint comes from the configuration, and gin
// panics on a path that it cannot use.
func (s *Server) mount(e *gin.Engine, r *route) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%s %s cannot be mounted: %v", r.method, r.path, p)
		}
	}()
	if err := s.decide(r.method, r); err != nil {
		return err
	}
	var steps []gin.HandlerFunc
	if r.dialect != nil {
		steps = append(steps, func(c *gin.Context) { c.Set(keyDialect, r.dialect) })
	}
	if r.scope != auth.Open {
		if r.scope != auth.Any && !slices.Contains(auth.AllScopes(), r.scope) {
			return fmt.Errorf("%s %s has the unknown scope %q", r.method, r.path, r.scope)
		}
		steps = append(steps, s.handle(s.authenticate(r.scope)))
		if r.dialect == nil {
			steps = append(steps, s.handle(s.identify), s.handle(s.claimConnection))
		}
		if strings.Contains(r.path, "/batch/:id") {
			steps = append(steps, s.handle(s.locate))
		}
		if r.scope == auth.Submit {
			steps = append(steps, s.handle(func(c *gin.Context) error { return s.checkTarget(principal(c), r.endpoint) }))
		}
	}
	steps = append(steps, s.handle(r.handle))
	e.Handle(r.method, r.path, steps...)
	if r.method == http.MethodGet && !r.noHead {
		if err := s.decide(http.MethodHead, r); err != nil {
			return err
		}
		e.HEAD(r.path, steps...)
	}
	return nil
}
