package api

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/batchd/batchd/api/auth"
	"github.com/batchd/batchd/api/dialect"
	"github.com/batchd/batchd/internal/batch"
)

// problem is a problem document (RFC 9457).
type problem = dialect.Problem

// kind is a type of problem. The set is closed.
type kind struct {
	slug   string
	title  string
	status int
}

func (k kind) problem(detail string) *problem {
	return &problem{Type: "urn:problem-type:batchd:" + k.slug, Title: k.title, Status: k.status, Detail: detail}
}

// The types of problems.
var (
	kindInvalidBatch     = kind{"invalid-batch", "The batch is not valid", http.StatusBadRequest}
	kindBadBody          = kind{"bad-body", "The body cannot be read", http.StatusBadRequest}
	kindBadParameter     = kind{"bad-parameter", "A parameter is not valid", http.StatusBadRequest}
	kindUnauthorized     = kind{"unauthorized", "A valid credential is required", http.StatusUnauthorized}
	kindForbidden        = kind{"forbidden", "The credential does not allow this", http.StatusForbidden}
	kindCrossSite        = kind{"cross-site", "A request from another site is refused", http.StatusForbidden}
	kindHost             = kind{"wrong-host", "The Host is not this server's", http.StatusMisdirectedRequest}
	kindNotFound         = kind{"not-found", "Not found", http.StatusNotFound}
	kindNoWebhook        = kind{"no-webhook", "The batch has no webhook", http.StatusNotFound}
	kindMethod           = kind{"method-not-allowed", "The method is not allowed here", http.StatusMethodNotAllowed}
	kindNotAcceptable    = kind{"not-acceptable", "No acceptable format", http.StatusNotAcceptable}
	kindStalled          = kind{"stalled", "The upload stalled", http.StatusRequestTimeout}
	kindEnded            = kind{"batch-ended", "The batch has ended", http.StatusConflict}
	kindNotEnded         = kind{"batch-not-ended", "The batch has not ended", http.StatusConflict}
	kindNothingToRetry   = kind{"nothing-to-retry", "There is nothing to retry", http.StatusConflict}
	kindKeyBusy          = kind{"idempotency-key-busy", "The idempotency key is in use", http.StatusConflict}
	kindUploadLost       = kind{"upload-lost", "The upload was lost", http.StatusConflict}
	kindTooLarge         = kind{"too-large", "The body is too large", http.StatusRequestEntityTooLarge}
	kindHeaderTooLarge   = kind{"header-too-large", "The header is too large", http.StatusRequestHeaderFieldsTooLarge}
	kindUnsupportedMedia = kind{"unsupported-media-type", "The format is not supported", http.StatusUnsupportedMediaType}
	kindLimited          = kind{"limit-exceeded", "The limit is exceeded", http.StatusTooManyRequests}
	kindQuota            = kind{"quota-exceeded", "A quota is exceeded", http.StatusTooManyRequests}
	kindOverLimit        = kind{"over-limit", "The batch is larger than the limit", http.StatusBadRequest}
	kindKeyReused        = kind{"idempotency-key-reused", "The idempotency key was used before", http.StatusUnprocessableEntity}
	kindInternal         = kind{"internal", "Internal server error", http.StatusInternalServerError}
	kindBusy             = kind{"busy", "The server is busy", http.StatusServiceUnavailable}
	kindUnavailable      = kind{"unavailable", "Service unavailable", http.StatusServiceUnavailable}
)

// requestError refuses a request for a reason that the API itself found.
type requestError struct {
	kind   kind
	detail string
	// header is an additional header of the answer, as a name and its value, or empty.
	header [2]string
}

// Error implements error.
func (e *requestError) Error() string { return e.detail }

func refuse(k kind, format string, args ...any) *requestError {
	return &requestError{kind: k, detail: fmt.Sprintf(format, args...)}
}

func (e *requestError) with(name, value string) *requestError {
	e.header = [2]string{name, value}
	return e
}

// problemOf is the only mapping from errors to HTTP. An error without a mapping is an
// internal error, of which the client gets only the request's id. Own are the quotas of
// the caller's key.
func problemOf(err error, own batch.Quotas, header http.Header, requestID string) *problem {
	var (
		refused      *requestError
		unauthorized *dialect.UnauthorizedError
		invalid      *batch.InvalidError
		unavailable  *batch.UnavailableError
		limited      *batch.LimitedError
		damaged      *batch.DamagedError
		issuer       *auth.IssuerError
		busy         *auth.BusyError
		quota        *batch.QuotaError
	)
	switch {
	case errors.As(err, &refused):
		if refused.header[0] != "" {
			header.Set(refused.header[0], refused.header[1])
		}
		return refused.kind.problem(refused.detail)
	case errors.As(err, &unauthorized):
		header.Set("WWW-Authenticate", `Bearer realm="batchd"`)
		return kindUnauthorized.problem(unauthorized.Detail)
	case errors.As(err, &invalid):
		return invalidProblem(invalid)
	case errors.As(err, &unavailable):
		setRetryAfter(header, unavailable.RetryAfter)
		return kindUnavailable.problem("the store cannot be reached or does not accept writes: try again later")
	case errors.As(err, &issuer):
		setRetryAfter(header, issuer.RetryAfter)
		return kindUnavailable.problem("the issuer of tokens cannot be asked for its keys, so the token cannot be checked: try again later")
	case errors.As(err, &busy):
		setRetryAfter(header, busy.RetryAfter)
		return kindBusy.problem(busy.Error())
	case errors.As(err, &limited):
		setRateLimit(header, &limited.State)
		if limited.RetryAfter == 0 {
			return kindOverLimit.problem(limited.Detail)
		}
		setRetryAfter(header, limited.RetryAfter)
		return kindLimited.problem(limited.Detail + "; nothing of it was stored")
	case errors.As(err, &quota):
		return quotaProblem(quota, own, header)
	case errors.As(err, &damaged):
		return kindInternal.problem(damagedDetail(damaged.ID, requestID))
	case errors.Is(err, batch.ErrNotFound):
		return kindNotFound.problem("there is no such batch, or it is not yours, or its retention is over")
	case errors.Is(err, batch.ErrNoWebhook):
		return kindNoWebhook.problem("the batch was submitted without a webhook")
	case errors.Is(err, batch.ErrTerminal):
		return kindEnded.problem("the batch has ended already: there is nothing to cancel")
	case errors.Is(err, batch.ErrNotTerminal):
		return kindNotEnded.problem("the batch has not ended yet: wait until it has")
	case errors.Is(err, batch.ErrNothingToRetry):
		return kindNothingToRetry.problem("no action of the batch has one of the outcomes asked for")
	case errors.Is(err, batch.ErrGrouped):
		return kindNothingToRetry.problem("the batch has groups, which count as a whole and cannot be retried in part: submit them again")
	case errors.Is(err, batch.ErrKeyReused):
		return kindKeyReused.problem("the Idempotency-Key was used before with other content: use a new key for a new batch")
	case errors.Is(err, batch.ErrKeyBusy):
		setRetryAfter(header, time.Second)
		return kindKeyBusy.problem("a submission with this Idempotency-Key is still being accepted: ask again in a moment")
	case errors.Is(err, batch.ErrUploadLost):
		setRetryAfter(header, time.Second)
		return kindUploadLost.problem("the upload was idle for too long, or another one with the same Idempotency-Key took over; nothing of it was stored: send it again")
	}
	return kindInternal.problem("an internal error occurred; the log has more under the request id " + requestID)
}

// damagedDetail tells a client that a batch cannot be read.
func damagedDetail(id, requestID string) string {
	return "batch " + id + " cannot be read: what is stored of it was changed, or its key is not in seal.keys; the log has more under the request id " + requestID
}

func invalidProblem(invalid *batch.InvalidError) *problem {
	total := len(invalid.Faults) + invalid.More
	p := kindInvalidBatch.problem(fmt.Sprintf("%d faults were found; nothing was stored", total))
	if total == 1 {
		p.Detail = "1 fault was found; nothing was stored"
	}
	for _, f := range invalid.Faults {
		e := dialect.ProblemError{Pointer: f.Pointer, Detail: f.Detail}
		if f.Index >= 0 {
			e.Index = &f.Index
		}
		p.Errors = append(p.Errors, e)
	}
	p.More = invalid.More
	return p
}

// setRetryAfter sets the header to whole seconds, rounded up, at least one.
func setRetryAfter(header http.Header, after time.Duration) {
	seconds := max(1, int(math.Ceil(after.Seconds())))
	header.Set("Retry-After", strconv.Itoa(seconds))
}

// handler answers a request, or returns an error.
type handler func(c *gin.Context) error

// handle converts a handler to gin's type.
func (s *Server) handle(h handler) gin.HandlerFunc {
	return func(c *gin.Context) {
		if err := h(c); err != nil {
			s.fail(c, err)
		}
	}
}

// fail answers with the problem for an error.
func (s *Server) fail(c *gin.Context, err error) {
	c.Abort()
	ctx := c.Request.Context()
	id := requestID(c)
	if c.Writer.Written() {
		s.note(c).aborted = true
		// The first half of the answer has been sent. Only a broken connection can tell
		// the client that the second half is missing.
		if ctx.Err() == nil {
			s.cfg.Logger.ErrorContext(ctx, "answer broken off", "request_id", id, "route", c.FullPath(), "batch", c.Param("id"), "error", err)
		}
		panic(http.ErrAbortHandler)
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		// The client has closed the connection and does not read this.
		err = refuse(kindBadBody, "the client closed the connection")
		s.note(c).gone = true
	}
	s.metrics.refusedByQuota(err)
	var own batch.Quotas
	if p := principal(c); p != nil {
		own = p.Quotas
	}
	p := problemOf(err, own, c.Writer.Header(), id)
	if n := s.note(c); !n.gone {
		n.Problem = p.Type
	}
	switch p.Status {
	case http.StatusInternalServerError:
		s.cfg.Logger.ErrorContext(ctx, "request failed", "request_id", id, "route", c.FullPath(), "error", err)
	case http.StatusServiceUnavailable:
		s.cfg.Logger.WarnContext(ctx, "request refused", "request_id", id, "route", c.FullPath(), "error", err)
	}
	h := c.Writer.Header()
	h.Del("ETag")
	h.Set("Cache-Control", "no-store")
	if err := writeProblem(c, p, err); err != nil {
		s.cfg.Logger.DebugContext(ctx, "problem not delivered", "request_id", id, "error", err)
	}
}

func (s *Server) noRoute(c *gin.Context) error {
	if s.cfg.MetricsElsewhere && c.Request.URL.Path == "/metrics" {
		return refuse(kindNotFound, "the metrics are at the address of monitor.listen, not at this one")
	}
	return refuse(kindNotFound, "nothing exists at this path: see /openapi.yaml for the paths")
}

func noMethod(c *gin.Context) error {
	return refuse(kindMethod, "this path does not support the method: the Allow header lists those that it supports")
}

// writeProblem answers with a problem, in the dialect of the request.
func writeProblem(c *gin.Context, p *problem, cause error) error {
	spoken, ok := c.Value(keyDialect).(dialect.Dialect)
	if !ok {
		return writeJSON(c, p.Status, "application/problem+json", p)
	}
	if invalid, ok := errors.AsType[*dialect.InvalidError](cause); ok {
		p.Items = invalid.Items
	}
	a, err := spoken.Refuse(p)
	if err != nil {
		return err
	}
	return writeBytes(c, a.Status, a.Media, a.Body)
}
