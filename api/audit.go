package api

import (
	"fmt"
	"net"
	"net/http"

	"github.com/gin-gonic/gin"

	"github.com/batchd/batchd/api/auth"
	"github.com/batchd/batchd/internal/audit"
)

const keyAudit = "audit"

// unauthorized is the type of the problem, whose status differs by dialect.
var unauthorized = kindUnauthorized.problem("").Type

// decision is what a route leaves in the audit log.
type decision struct {
	event audit.Name
	// quiet: it leaves a line only if it answers with results, if the batch is another owner's, or if the
	// credential does not allow it. Clients ask these routes again and again.
	quiet bool
}

// note is what the handlers of a request know for its line in the audit log.
type note struct {
	audit.Event
	// results: the answer has results.
	results bool
	// done: the store has carried out what the request asks for. What becomes of the answer does not change that.
	done bool
	// aborted: the answer was broken off. gone: the client hung up before it.
	aborted, gone bool
	// recorded: the line has been written.
	recorded bool
}

// note returns the note of a request, or a new one that is not kept if there is no audit log.
func (s *Server) note(c *gin.Context) *note {
	if n, ok := c.Value(keyAudit).(*note); ok {
		return n
	}
	n := &note{}
	if s.cfg.Audit != nil {
		c.Set(keyAudit, n)
	}
	return n
}

// decide registers the decision of a route. Every route has one.
func (s *Server) decide(method string, r *route) error {
	if r.audit == "" {
		return fmt.Errorf("%s %s has no decision about the audit log: give it an event, or audit.Unaudited", r.method, r.path)
	}
	s.decisions[method+" "+r.path] = decision{r.audit, r.quiet || method == http.MethodHead}
	return nil
}

// record writes the line of a request that has been answered or, for a stream, that is answered from now on.
func (s *Server) record(c *gin.Context) {
	route := c.Request.Method + " " + c.FullPath()
	d, ok := s.decisions[route]
	if s.cfg.Audit == nil || !ok {
		return
	}
	n, p, status := s.note(c), principal(c), c.Writer.Status()
	if n.recorded {
		return
	}
	n.recorded = true
	e := n.Event
	e.Name, e.Status, e.Route, e.RequestID = d.event, status, route, requestID(c)
	e.Client = c.Request.RemoteAddr
	if t := c.Request.TLS; t != nil && len(t.VerifiedChains) > 0 {
		e.Certificate = t.PeerCertificates[0].Subject.String()
	}
	switch {
	case n.done:
		e.Result = audit.OK
	case n.aborted, n.gone:
		e.Result = audit.Aborted
	case status >= http.StatusInternalServerError:
		e.Result = audit.Failed
	case status >= http.StatusBadRequest:
		e.Result = audit.Refused
	default:
		e.Result = audit.OK
	}
	if p == nil && (d.event == audit.Unaudited || d.quiet) && n.Problem != unauthorized && status != http.StatusForbidden && status != http.StatusMisdirectedRequest {
		return // a probe, or a route that asks for no credential
	}
	if p == nil && status < http.StatusBadRequest {
		return // a sign-out without a session
	}
	if n.gone {
		e.Status = 0 // there was no answer
	}
	if !n.done && (p == nil || n.Problem == unauthorized) {
		if e.Name, e.Attempted = audit.AuthFailed, d.event; d.event == audit.Unaudited {
			e.Attempted = ""
		}
		s.cfg.Audit.RecordFailure(e, source(c.Request))
		return
	}
	e.Mode, e.Actor, e.ActorOwner = string(p.Mode), p.Name, p.Owner
	if p.Mode == auth.ModePassthrough {
		e.ActorOwner = owner(c)
	}
	listed := d.event == audit.BatchList && isAdmin(c) // the batches of the owner that it names, or of all
	if status != http.StatusNotFound && !listed {
		e.Owner = owner(c)
	}
	if id := c.Param("id"); e.Batch == "" && isPlainName(id, 64) {
		e.Batch = id
	}
	foreign := e.Owner != "" && e.Owner != e.ActorOwner || listed
	switch {
	case d.event == audit.Unaudited || d.quiet && !n.results && !foreign && status != http.StatusForbidden:
	case p.Mode == auth.ModePassthrough && (e.Result == audit.Refused || n.gone && !n.done):
		s.cfg.Audit.RecordFailure(e, source(c.Request)) // any client can invent a credential, and be refused
	default:
		s.cfg.Audit.Record(e)
	}
}

// source is where a request without a valid credential comes from.
func source(r *http.Request) string {
	if conn := connOf(r.Context()); conn != nil && conn.address.IsValid() {
		return conn.address.String()
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}
