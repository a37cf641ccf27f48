package api

import (
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/batchd/batchd/internal/batch"
)

const (
	defaultListLimit = 50
	maxListLimit     = 200
)

// get answers with a batch. With "Prefer: wait" it answers when the batch has ended.
func (s *Server) get(c *gin.Context) error {
	id, err := s.addressed(c)
	if err != nil {
		return err
	}
	wait, applied := parsePrefer(c.Request.Header).waitFor(0, s.cfg.Limits.MaxWait)
	how := watch{by: principal(c), wait: wait, few: inlineResults}
	if c.Request.Method == http.MethodHead || c.Request.Header["If-None-Match"] != nil {
		how.few = 0 // the results will probably not be sent
	}
	leave, err := s.takeWait(c, wait)
	if err != nil {
		return err
	}
	defer leave()
	b, err := s.await(c.Request.Context(), owner(c), id, how)
	if err != nil {
		return err
	}
	if applied != "" {
		c.Header("Preference-Applied", applied)
	}
	tag, err := etag(documentFor(c, b))
	if err != nil {
		return err
	}
	c.Header("ETag", tag)
	if matches(c.Request.Header, tag) {
		c.Status(http.StatusNotModified)
		return nil
	}
	return s.writeBatch(c, http.StatusOK, b)
}

// addressed makes the checks that all JSON requests about one batch share, and returns
// the batch's id.
func (s *Server) addressed(c *gin.Context) (string, error) {
	if _, err := negotiate(c, mediaJSON); err != nil {
		return "", err
	}
	if _, err := parameters(c); err != nil {
		return "", err
	}
	return batchID(c)
}

// cancel cancels the actions that have not started.
func (s *Server) cancel(c *gin.Context) error {
	id, err := s.addressed(c)
	if err != nil {
		return err
	}
	ctx, cancel := settled(c.Request.Context())
	defer cancel()
	b, err := s.cfg.Store.Cancel(ctx, owner(c), id)
	if err != nil {
		return err
	}
	s.note(c).done = true
	status := http.StatusAccepted
	if b.Status.Terminal() {
		status = http.StatusOK
	}
	doc := documentFor(c, b)
	c.Header("Location", doc.Links.Self)
	return writeJSON(c, status, mediaJSON, doc)
}

// These outcomes can be retried. A retry that names none repeats those listed before
// unknown.
var retryable = []batch.Outcome{batch.Failed, batch.Errored, batch.Expired, batch.Skipped, batch.Unknown, batch.Cancelled}

// retry runs actions again that did not succeed.
func (s *Server) retry(c *gin.Context) error {
	if _, err := negotiate(c, mediaJSON); err != nil {
		return err
	}
	given, err := parameters(c, "outcome")
	if err != nil {
		return err
	}
	id, err := batchID(c)
	if err != nil {
		return err
	}
	outcomes, err := outcomesIn(given, retryable)
	if err != nil {
		return err
	}
	if outcomes == nil {
		outcomes = retryable[:slices.Index(retryable, batch.Unknown)]
	}
	ctx := c.Request.Context()
	before, err := s.cfg.Store.Get(ctx, owner(c), id, 0)
	if err != nil {
		return err
	}
	if !principal(c).Allows(before.Target) {
		return refuse(kindForbidden, "the credential is for other targets than the batch")
	}
	if err := s.allowReceiver(c, before); err != nil {
		return err
	}
	spec := &batch.RetrySpec{Outcomes: outcomes}
	if spec.Limit, spec.Throttle, err = s.retryAdmission(c, before); err != nil {
		return err
	}
	if spec.Accounts, err = s.accounts(c, owner(c)); err != nil {
		return err
	}
	ctx, cancel := settled(ctx)
	defer cancel()
	b, state, err := s.cfg.Store.Retry(ctx, owner(c), id, spec)
	if err != nil {
		return err
	}
	s.note(c).done = true
	if state != nil {
		setRateLimit(c.Writer.Header(), state)
	}
	doc := documentFor(c, b)
	c.Header("Location", doc.Links.Self)
	setRetryAfter(c.Writer.Header(), time.Second)
	return writeJSON(c, http.StatusAccepted, mediaJSON, doc)
}

// allowReceiver refuses a credential whose webhooks may not go to the receiver of the batch. The settings of its owner
// count when the webhook is delivered.
func (s *Server) allowReceiver(c *gin.Context, b *batch.Batch) error {
	hosts := principal(c).WebhookHosts
	if hosts == nil || b.WebhookURL == "" {
		return nil
	}
	settings := s.cfg.Webhooks
	settings.Hosts = nil
	if settings.CheckURL(b.WebhookURL, b.Owner, hosts) != nil {
		return refuse(kindForbidden, "the credential may send no webhook to the receiver of the batch")
	}
	return nil
}

// erase deletes a batch and all of its data.
func (s *Server) erase(c *gin.Context) error {
	if _, err := parameters(c); err != nil {
		return err
	}
	id, err := batchID(c)
	if err != nil {
		return err
	}
	ctx, cancel := settled(c.Request.Context())
	defer cancel()
	if err := s.cfg.Store.Delete(ctx, owner(c), id); err != nil {
		return err
	}
	s.note(c).done = true
	c.Status(http.StatusNoContent)
	return nil
}

// batchList is a page of batches: of a [*document] for each, or a [*damagedDocument].
type batchList struct {
	Batches    []any  `json:"batches"`
	NextCursor string `json:"next_cursor,omitempty"`
}

// damagedDocument represents a batch that cannot be read in a list.
type damagedDocument struct {
	ID        string    `json:"id"`
	CreatedAt timestamp `json:"created_at"`
	Owner     string    `json:"owner,omitempty"` // for admins
	Error     string    `json:"error"`
}

// listed returns the representation of a batch in a list. Of one that cannot be read, the log has the reason.
func (s *Server) listed(c *gin.Context, b *batch.Batch) any {
	if b.Damaged == nil {
		return documentFor(c, b)
	}
	id := requestID(c)
	s.cfg.Logger.ErrorContext(c.Request.Context(), "batch in a list cannot be read", "request_id", id, "route", c.FullPath(), "batch", b.ID, "error", b.Damaged)
	doc := &damagedDocument{ID: b.ID, CreatedAt: timestamp{b.CreatedAt}, Error: damagedDetail(b.ID, id)}
	if isAdmin(c) {
		doc.Owner = b.Owner
	}
	return doc
}

// list answers with the owner's batches or, for an admin, those of all owners, newest first.
func (s *Server) list(c *gin.Context) error {
	if _, err := negotiate(c, mediaJSON); err != nil {
		return err
	}
	given, err := parameters(c, "limit", "cursor", "owner")
	if err != nil {
		return err
	}
	owners := s.reach(c)
	if given.Has("owner") {
		if !isAdmin(c) {
			return refuse(kindForbidden, "only a credential with the scope admin may list the batches of an owner: leave out owner")
		}
		owners = batch.OwnedBy(given.Get("owner"))
		s.note(c).Owner = given.Get("owner")
	}
	limit, err := integer(given, "limit", defaultListLimit, 1, maxListLimit)
	if err != nil {
		return err
	}
	cursor, err := decodeCursor(given)
	if err != nil {
		return err
	}
	found, next, err := s.cfg.Store.List(c.Request.Context(), owners, cursor, limit)
	if errors.Is(err, batch.ErrCursor) {
		return errNoCursor
	}
	if err != nil {
		return err
	}
	page := &batchList{Batches: []any{}}
	for _, b := range found {
		page.Batches = append(page.Batches, s.listed(c, b))
	}
	if next != "" {
		page.NextCursor = base64.RawURLEncoding.EncodeToString([]byte(next))
		link := url.Values{"cursor": {page.NextCursor}, "limit": {strconv.Itoa(limit)}}
		if given.Has("owner") {
			link.Set("owner", given.Get("owner"))
		}
		c.Header("Link", `</batch?`+link.Encode()+`>; rel="next"`)
	}
	return writeJSON(c, http.StatusOK, mediaJSON, page)
}

var errNoCursor = refuse(kindBadParameter, `the query parameter "cursor" is not valid: use next_cursor of the previous page`)

func decodeCursor(given url.Values) (string, error) {
	if !given.Has("cursor") {
		return "", nil
	}
	decoded, err := base64.RawURLEncoding.DecodeString(given.Get("cursor"))
	if err == nil && !isPlainName(string(decoded), 64) {
		err = errors.New("no id")
	}
	if err != nil {
		return "", errNoCursor
	}
	return string(decoded), nil
}

// deliveries answers with the log of a batch's webhook deliveries.
func (s *Server) deliveries(c *gin.Context) error {
	id, err := s.addressed(c)
	if err != nil {
		return err
	}
	log, err := s.deliveryLog(c, id)
	if err != nil {
		return err
	}
	return writeJSON(c, http.StatusOK, mediaJSON, log)
}

// redeliver starts a new delivery of the webhook of a terminal batch.
func (s *Server) redeliver(c *gin.Context) error {
	id, err := s.addressed(c)
	if err != nil {
		return err
	}
	if principal(c).WebhookHosts != nil {
		b, err := s.cfg.Store.Get(c.Request.Context(), owner(c), id, 0)
		if err != nil {
			return err
		}
		if err := s.allowReceiver(c, b); err != nil {
			return err
		}
	}
	ctx, cancel := settled(c.Request.Context())
	defer cancel()
	if err := s.cfg.Store.Redeliver(ctx, owner(c), id); err != nil {
		return err
	}
	s.note(c).done = true
	log, err := s.deliveryLog(c, id)
	if err != nil {
		return err
	}
	c.Header("Location", location(id)+"/webhook")
	return writeJSON(c, http.StatusAccepted, mediaJSON, log)
}

func (s *Server) deliveryLog(c *gin.Context, id string) (*batch.DeliveryLog, error) {
	log, err := s.cfg.Store.Deliveries(c.Request.Context(), owner(c), id)
	if err != nil {
		return nil, err
	}
	if log.Attempts == nil {
		log.Attempts = []batch.Delivery{} // an empty list, not null
	}
	return log, nil
}
