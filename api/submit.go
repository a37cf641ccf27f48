package api

import (
	"context"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/batchd/batchd/api/auth"
	"github.com/batchd/batchd/api/dialect"
	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/crash"
)

// settleTimeout bounds the store's work on a request when no client waits for it any more:
// committing a whole upload, dropping a broken one, or changing a batch.
const settleTimeout = 15 * time.Second

// settled returns the context for a change in the store. Whether it happens, and what the
// audit log says about it, must not depend on when the client hangs up.
func settled(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
}

// submit accepts a batch. The endpoint is nil for /batch itself.
func (s *Server) submit(ep *Endpoint) handler {
	return func(c *gin.Context) error {
		if _, err := negotiate(c, mediaJSON); err != nil {
			return err
		}
		wait, applied := s.waitFor(ep, c.Request.Header)
		leave, err := s.takeWait(c, wait)
		if err != nil {
			return err
		}
		defer leave()
		b, replayed, err := s.receive(c, ep, wait > 0)
		if err != nil {
			return err
		}
		s.acknowledge(c, b, replayed, applied)
		return s.answerSubmission(c, ep, b, wait)
	}
}

// receive reads and stores a submission. When it returns, nothing of the body is in
// memory any more.
func (s *Server) receive(c *gin.Context, ep *Endpoint, waited bool) (b *batch.Batch, replayed bool, err error) {
	r := c.Request
	key, err := idempotencyKey(r.Header)
	if err != nil {
		return nil, false, err
	}
	media, err := submissionMedia(r.Header)
	if err != nil {
		return nil, false, err
	}
	if media == mediaJSON {
		if _, err := parameters(c); err != nil {
			return nil, false, err
		}
	}
	authorization, err := s.forwarded(c)
	if err != nil {
		return nil, false, err
	}
	if err := s.checkForwarded(c, dialect.Credentials{Authorization: authorization}); err != nil {
		return nil, false, err
	}
	body, err := openBody(r, s.bodyLimits(c, s.cfg.Limits.MaxBody))
	if err != nil {
		return nil, false, err
	}
	defer body.Close()

	ctx := r.Context()
	up := &staging{store: s.cfg.Store, key: key, most: s.cfg.Limits.MaxBody, accounts: func(owner string) ([]batch.Account, error) { return s.accounts(c, owner) }}
	defer up.abort(ctx)
	index, tokens := 0, s.newTokenSearch(r.Header)
	dec := newDecoder(s.rules(principal(c), owner(c), ep, authorization), func(a *batch.Action) error {
		if err := tokens.check(index, a); err != nil {
			return err
		}
		index++
		s.nesting.refuse(ep, a)
		return up.add(ctx, a)
	})
	up.owner = s.submitter(c, ep, dec.knownTarget)
	spec, err := s.read(dec, media, body, r.URL.RawQuery)
	if err != nil {
		return nil, false, err
	}
	if err := tokens.checkSpec(spec); err != nil {
		return nil, false, err
	}
	if err := s.checkReceiver(c, spec.WebhookURL); err != nil {
		return nil, false, err
	}
	spec.Waited = waited
	spec.Fingerprint = body.fingerprint(media, authorization, r)
	if _, err := s.admit(c, up.upload, ep, dec.count, spec); err != nil {
		return nil, false, err
	}
	if err := principal(c).StillValid(ctx); err != nil {
		return nil, false, err
	}
	return up.commit(ctx, spec)
}

// bodyLimits returns the limits for the body of a request, with a reservation for it.
func (s *Server) bodyLimits(c *gin.Context, size int64) bodyLimits {
	most := &s.cfg.Limits.Capacity
	held := s.memory.reserve(payer(c), uncheckedAddress(c))
	if paced, ok := c.Request.Body.(*paceReader); ok {
		paced.memory = held
	}
	return bodyLimits{size: size, ratio: int64(most.BodyRatio), rate: most.BodyRate, memory: held}
}

// acknowledge sets the headers that tell how an existing batch was accepted.
func (s *Server) acknowledge(c *gin.Context, b *batch.Batch, replayed bool, applied string) {
	n := s.note(c)
	n.done = true
	n.Batch, n.Target, n.Count, n.Replayed = b.ID, b.Target, b.Counts.Total, replayed
	if replayed {
		c.Header("Idempotency-Replayed", "true")
	} else {
		s.metrics.accepted(b.Target, b.Counts.Total)
	}
	if applied != "" {
		c.Header("Preference-Applied", applied)
	}
}

func (s *Server) read(dec *decoder, media string, body *body, query string) (*batch.Spec, error) {
	if media == mediaNDJSON {
		return dec.readNDJSON(body, query)
	}
	return dec.readJSON(body)
}

// answerSubmission answers 200 with the results if the batch ends in time, and 202
// otherwise.
func (s *Server) answerSubmission(c *gin.Context, ep *Endpoint, b *batch.Batch, wait time.Duration) error {
	c.Header("Location", location(b.ID))
	b, err := s.follow(c, ep, b, wait)
	if err != nil {
		return err
	}
	if wait > 0 && b.Status.Terminal() {
		return s.writeBatch(c, http.StatusOK, b)
	}
	setRetryAfter(c.Writer.Header(), time.Second)
	return writeJSON(c, http.StatusAccepted, mediaJSON, documentFor(c, b))
}

// waitFor returns how long to wait before the answer, and the preference that was
// applied.
func (s *Server) waitFor(ep *Endpoint, h http.Header) (time.Duration, string) {
	def, most := time.Duration(0), s.cfg.Limits.MaxWait
	if ep != nil && ep.Wait > 0 {
		def, most = ep.Wait, ep.Wait
	}
	return parsePrefer(h).waitFor(def, most)
}

func (s *Server) rules(p *auth.Principal, owner string, ep *Endpoint, authorization string) rules {
	r := rules{
		limits: s.cfg.Limits, targets: s.targetsOf(p), policies: s.policies, transactional: s.cfg.Transactional, sealed: s.cfg.Sealed, authorization: authorization,
		webhooks: s.cfg.Webhooks.Secret != "",
	}
	webhooks := s.cfg.Webhooks
	if p.Mode == auth.ModePassthrough {
		webhooks.Hosts = nil // the owner is not known before the target is, see checkReceiver
	}
	r.checkWebhook = func(raw string) error { return webhooks.CheckURL(raw, owner, p.WebhookHosts) }
	if ep != nil {
		r.fixed, r.limits.MaxActions = ep.Target, ep.MaxActions
	}
	return r
}

// checkReceiver checks the URL of a webhook, or "", for the owner of a submission, which is known once its first action
// is stored.
func (s *Server) checkReceiver(c *gin.Context, url string) error {
	if url == "" {
		return nil
	}
	if err := s.cfg.Webhooks.CheckURL(url, owner(c), principal(c).WebhookHosts); err != nil {
		return &batch.InvalidError{Faults: []batch.Fault{{Index: -1, Pointer: "/webhook/url", Detail: err.Error()}}}
	}
	return nil
}

// staging is an upload that begins with its first action, so a submission without a
// valid action does not reach the store.
type staging struct {
	store    batch.Store
	owner    func() (string, error)
	accounts func(owner string) ([]batch.Account, error)
	key      string
	upload   batch.Upload
	// most bounds the bytes of all actions, and bytes are those so far. Actions have more
	// than their submission if a credential or other headers are added to each.
	most, bytes int64
}

func (g *staging) open(ctx context.Context) (err error) {
	if g.upload != nil {
		return nil
	}
	owner, err := g.owner()
	if err != nil {
		return err
	}
	accounts, err := g.accounts(owner)
	if err != nil {
		return err
	}
	if g.upload, err = g.store.Open(ctx, owner, g.key); err != nil {
		return err
	}
	g.upload.Charge(accounts...)
	return nil
}

func (g *staging) add(ctx context.Context, a *batch.Action) error {
	if err := g.open(ctx); err != nil {
		return err
	}
	if g.bytes += sizeOf(a); g.bytes > g.most {
		return refuse(kindTooLarge, "the actions have more than %d bytes, with the headers and the query that are added to each: send them in several batches, or raise limits.max_body", g.most)
	}
	return g.upload.Add(ctx, a)
}

// sizeOf returns the bytes of an action's texts.
func sizeOf(a *batch.Action) int64 {
	n := len(a.ID) + len(a.Group) + len(a.Path) + len(a.Query) + len(a.Body)
	for _, h := range a.Headers {
		n += len(h.Name) + len(h.Value)
	}
	if a.Undo != nil {
		return int64(n) + sizeOf(a.Undo)
	}
	return int64(n)
}

// commit makes the batch exist. From here on a hang-up of the client no longer matters:
// whether the batch exists must not depend on when the connection broke.
func (g *staging) commit(ctx context.Context, spec *batch.Spec) (*batch.Batch, bool, error) {
	ctx, cancel := settled(ctx)
	defer cancel()
	b, replayed, err := g.upload.Commit(ctx, spec)
	crash.At(crash.BeforeAnswer)
	return b, replayed, err
}

// abort drops the staged actions, unless they were committed.
func (g *staging) abort(ctx context.Context) {
	if g.upload == nil {
		return
	}
	ctx, cancel := settled(ctx)
	defer cancel()
	g.upload.Abort(ctx)
}
