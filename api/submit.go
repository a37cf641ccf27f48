package api

import (
	"context"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/batchd/batchd/internal/batch"
)

// settleTimeout bounds the store's work on a submission whose client is no
// longer waited for: the commit of a whole upload, and dropping a broken one.
const settleTimeout = 15 * time.Second

// submit accepts a batch. The endpoint is nil for /batch itself.
func (s *Server) submit(ep *Endpoint) handler {
	return func(c *gin.Context) error {
		if _, err := negotiate(c, mediaJSON); err != nil {
			return err
		}
		r := c.Request
		key, err := idempotencyKey(r.Header)
		if err != nil {
			return err
		}
		media, err := submissionMedia(r.Header)
		if err != nil {
			return err
		}
		if media == mediaJSON {
			if _, err := parameters(c); err != nil {
				return err
			}
		}
		wait, applied := s.waitFor(ep, r.Header)
		body, err := openBody(r, s.cfg.Limits.MaxBody)
		if err != nil {
			return err
		}
		defer body.Close()

		ctx := r.Context()
		up := &staging{store: s.cfg.Store, owner: owner(c), key: key}
		defer up.abort(ctx)
		dec := newDecoder(s.rules(ep, s.forwarded(c)), func(a *batch.Action) error { return up.add(ctx, a) })
		spec, err := s.read(dec, media, body, r.URL.RawQuery)
		if err != nil {
			return err
		}
		spec.Waited = wait > 0
		spec.Fingerprint = body.fingerprint(media, r)
		b, replayed, err := up.commit(ctx, spec)
		if err != nil {
			return err
		}
		if replayed {
			c.Header("Idempotency-Replayed", "true")
		} else {
			s.metrics.accepted(b.Target, b.Counts.Total)
		}
		if applied != "" {
			c.Header("Preference-Applied", applied)
		}
		return s.answerSubmission(c, b, wait)
	}
}

func (s *Server) read(dec *decoder, media string, body *body, query string) (*batch.Spec, error) {
	if media == mediaNDJSON {
		return dec.readNDJSON(body, query)
	}
	return dec.readJSON(body)
}

// answerSubmission answers 200 with the results if the batch ends in time, and
// else 202. The batch exists, whatever happens here: a wait that fails falls
// back to what is known.
func (s *Server) answerSubmission(c *gin.Context, b *batch.Batch, wait time.Duration) error {
	c.Header("Location", location(b.ID))
	if wait > 0 && !b.Status.Terminal() {
		ctx := c.Request.Context()
		now, err := s.await(ctx, owner(c), b.ID, wait)
		if err != nil {
			if ctx.Err() != nil {
				return err
			}
			s.cfg.Logger.WarnContext(ctx, "wait broken off", "request_id", requestID(c), "batch_id", b.ID, "error", err)
		} else {
			b = now
		}
	}
	if wait > 0 && b.Status.Terminal() {
		return s.writeBatch(c, http.StatusOK, b)
	}
	setRetryAfter(c.Writer.Header(), time.Second)
	return writeJSON(c, http.StatusAccepted, mediaJSON, newDocument(b))
}

// waitFor returns how long to wait before answering, and the preference that
// was applied.
func (s *Server) waitFor(ep *Endpoint, h http.Header) (time.Duration, string) {
	def, most := time.Duration(0), s.cfg.Limits.MaxWait
	if ep != nil && ep.Wait > 0 {
		def, most = ep.Wait, ep.Wait
	}
	return parsePrefer(h).waitFor(def, most)
}

func (s *Server) rules(ep *Endpoint, authorization string) rules {
	r := rules{
		limits: s.cfg.Limits, targets: s.cfg.Targets, sealed: s.cfg.Sealed, authorization: authorization,
		webhooks: s.cfg.Webhooks, allowPrivateWebhooks: s.cfg.AllowPrivateWebhooks,
	}
	if ep != nil {
		r.fixed, r.limits.MaxActions = ep.Target, ep.MaxActions
	}
	return r
}

// staging is an upload that is opened with its first action, so that a
// submission without a good one asks nothing of the store.
type staging struct {
	store      batch.Store
	owner, key string
	upload     batch.Upload
}

func (g *staging) add(ctx context.Context, a *batch.Action) error {
	if g.upload == nil {
		upload, err := g.store.Open(ctx, g.owner, g.key)
		if err != nil {
			return err
		}
		g.upload = upload
	}
	return g.upload.Add(ctx, a)
}

// commit makes the batch exist. From here on the client's hanging up no longer
// matters: whether the batch exists must not depend on when the connection broke.
func (g *staging) commit(ctx context.Context, spec *batch.Spec) (*batch.Batch, bool, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	return g.upload.Commit(ctx, spec)
}

// abort drops what was staged, unless it was committed.
func (g *staging) abort(ctx context.Context) {
	if g.upload == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	g.upload.Abort(ctx)
}
