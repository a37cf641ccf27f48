package api

import (
	"errors"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/batchd/batchd/api/auth"
	"github.com/batchd/batchd/api/dialect"
	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/intake"
)

// answerBytes is the default of Server.answerBytes.
const answerBytes = 64 << 20

// answerTimes is how many times a target's body is in memory while its answer is made.
const answerTimes = 2

// keyDialect is the key of a request's dialect in the gin context, if it has one:
// errors are written in that dialect.
const keyDialect = "dialect"

// translate accepts a batch in a dialect, and answers in the dialect when the batch has
// ended or the wait is over. The results of actions never change the status of the
// answer.
func (s *Server) translate(ep *Endpoint, def *dialect.Definition) handler {
	return func(c *gin.Context) error {
		key, err := idempotencyKey(c.Request.Header)
		if err != nil {
			return err
		}
		if err := foreignMedia(c.Request.Header, def.Media); err != nil {
			return err
		}
		req, err := s.foreignRequest(c, ep)
		if err != nil {
			return err
		}
		// Who calls is known before the body is read, except if it has the credential.
		credentials, inBody, err := def.Authenticate(req)
		if err != nil {
			return s.refusedByDialect(c, err)
		}
		if err := s.checkForwarded(c, credentials); err != nil {
			return err
		}
		if !inBody || principal(c).Mode != auth.ModePassthrough {
			if err := s.own(c, ep, credentials); err != nil {
				return err
			}
		}
		prefer := parsePrefer(c.Request.Header)
		wait, applied := prefer.waitFor(ep.Wait, ep.Wait)
		leave := func() {}
		defer func() { leave() }()
		// enter is called once, when the owner is known for good.
		enter := func(credentials dialect.Credentials) error {
			if err := s.verify(c, ep.Target, credentials); err != nil {
				return err
			}
			taken, err := s.takeWait(c, wait)
			if err == nil {
				leave = taken
			}
			return err
		}
		if !def.CredentialsInBody {
			if err := enter(credentials); err != nil {
				return err
			}
		}
		in, err := s.receiveForeign(c, ep, def, req, &foreignCaller{credentials, key, enter}, wait > 0)
		if err != nil {
			return err
		}
		s.acknowledge(c, in.batch, in.replayed, applied)
		b, err := s.follow(c, ep, in.batch, wait)
		if err != nil {
			return err
		}
		if !b.Status.Terminal() || prefer.async && wait == 0 {
			c.Header("Location", location(b.ID))
			if prefer.async {
				setRetryAfter(c.Writer.Header(), time.Second)
				return writeJSON(c, http.StatusAccepted, mediaJSON, documentFor(c, b))
			}
		}
		held := s.hold(c)
		defer held.release()
		results, err := s.gather(c, b, in.actions, held)
		if err != nil {
			return err
		}
		answer, err := def.Encode(req, in.submission, results)
		if err != nil {
			return err
		}
		_ = held.answer(int64(len(answer))) // without room, it stays as large as it was
		return writeBytes(c, http.StatusOK, mediaJSON, answer)
	}
}

// accepted is a batch that came in a dialect, and what the answer needs of the request.
type accepted struct {
	batch      *batch.Batch
	replayed   bool
	submission *dialect.Submission
	actions    int
}

// foreignCaller is what a request in a dialect says of its caller before its body.
type foreignCaller struct {
	credentials dialect.Credentials
	key         string // the idempotency key, or ""
	// enter is called when the owner is known for good, and before anything is stored.
	enter func(dialect.Credentials) error
}

// receiveForeign reads and stores a batch in a dialect. When it returns, neither the body
// nor the actions are in memory any more.
func (s *Server) receiveForeign(c *gin.Context, ep *Endpoint, def *dialect.Definition, req *dialect.Request, caller *foreignCaller, waited bool) (*accepted, error) {
	r := c.Request
	most := s.maxForeignBody(ep)
	if owner(c) == "" {
		most = min(most, maxUnknownBody)
	}
	body, err := openBody(r, s.bodyLimits(c, most))
	if err != nil {
		return nil, err
	}
	defer body.Close()
	if req.Body, err = body.readAll(r.ContentLength); err != nil {
		return nil, err
	}
	req.Reserve, req.Hold = body.keep, body.hold
	sub, err := def.Decode(req)
	if err != nil {
		return nil, err
	}
	if err := s.checkForwarded(c, sub.Credentials); err != nil {
		return nil, err
	}
	if owner(c) == "" || sub.Credentials.Identity() != caller.credentials.Identity() {
		if err := s.own(c, ep, sub.Credentials); err != nil {
			return nil, err
		}
	}
	if def.CredentialsInBody {
		if err := caller.enter(sub.Credentials); err != nil {
			return nil, err
		}
	}
	if err := s.checkForeignGroups(ep.Target, sub.Actions); err != nil {
		return nil, err
	}
	spec := &batch.Spec{
		Target: ep.Target, Waited: waited, ExpiresIn: s.cfg.Limits.ExpiresIn, Retention: s.cfg.Limits.Retention,
		// With other credentials it is another submission, even if the owner is the
		// same.
		Fingerprint: body.fingerprint(mediaJSON, sub.Credentials.Identity(), r),
	}
	in := &accepted{submission: sub, actions: len(sub.Actions)}
	if in.batch, in.replayed, err = s.store(c, ep, caller.key, sub.Actions, spec); err != nil {
		return nil, err
	}
	req.Body, req.Reserve, req.Hold, sub.Actions = nil, nil, nil, nil
	return in, nil
}

// maxUnknownBody bounds a body that has the credential of its request.
const maxUnknownBody = 1 << 20

// maxForeignBody returns the bound for a body that the server holds as a whole.
func (s *Server) maxForeignBody(ep *Endpoint) int64 {
	return min(s.cfg.Limits.MaxBody, int64(ep.MaxActions)*s.cfg.Limits.maxItem())
}

// foreignMedia checks that the content of a request is JSON in UTF-8. Any other content
// that a browser sends without asking must not be accepted as a batch.
func foreignMedia(h http.Header, also []string) error {
	media, params, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil || media != mediaJSON && !slices.Contains(also, media) {
		return refuse(kindUnsupportedMedia, "the Content-Type %q is not supported: send application/json, in UTF-8", intake.Clip(h.Get("Content-Type")))
	}
	if charset, ok := params["charset"]; ok && !strings.EqualFold(charset, "utf-8") {
		return refuse(kindUnsupportedMedia, "the charset %q is not supported: send application/json, in UTF-8", intake.Clip(charset))
	}
	return nil
}

// foreignRequest collects the parts of a request that a dialect sees, without its body.
func (s *Server) foreignRequest(c *gin.Context, ep *Endpoint) (*dialect.Request, error) {
	query, err := parseQuery(c.Request.URL.RawQuery)
	if err != nil {
		return nil, err
	}
	req := &dialect.Request{
		Header: c.Request.Header, Query: query, Params: make(map[string]string, len(c.Params)),
		Target: s.policies[ep.Target], MaxActions: ep.MaxActions, MaxActionBody: s.cfg.Limits.MaxActionBody,
		Sealed: s.cfg.Sealed, Passthrough: principal(c).Forward, Known: isKnown(principal(c)),
	}
	for _, p := range c.Params {
		req.Params[p.Key] = p.Value
	}
	return req, nil
}

// isKnown reports whether the caller needs no credential of the target.
func isKnown(p *auth.Principal) bool { return p.Mode == auth.ModeKeys || p.Mode == auth.ModeJWT }

// store stages all actions and commits them. An action beyond the owner's limit, and an
// action that would be a batch in a batch, is stored as refused.
func (s *Server) store(c *gin.Context, ep *Endpoint, key string, actions []batch.Action, spec *batch.Spec) (*batch.Batch, bool, error) {
	ctx := c.Request.Context()
	up := &staging{
		store: s.cfg.Store, owner: func() (string, error) { return owner(c), nil }, key: key,
		accounts: func(owner string) ([]batch.Account, error) { return s.accounts(c, owner) }, most: s.cfg.Limits.MaxBody,
	}
	defer up.abort(ctx)
	if err := up.open(ctx); err != nil {
		return nil, false, err
	}
	admitted, err := s.admit(c, up.upload, ep, len(actions), spec)
	if err != nil {
		return nil, false, err
	}
	refused, tokens := groupsBeyond(actions, admitted), s.newTokenSearch(c.Request.Header)
	for i := range actions {
		if err := tokens.check(i, &actions[i]); err != nil {
			return nil, false, err
		}
		s.nesting.refuse(ep, &actions[i])
		if i >= admitted || refused[actions[i].Group] {
			actions[i].Refusal = &batch.Failure{Code: batch.CodeLimited, Message: "not sent: the limit has no room for more just now"}
		}
		if err := up.add(ctx, &actions[i]); err != nil {
			return nil, false, err
		}
	}
	if err := principal(c).StillValid(ctx); err != nil {
		return nil, false, err
	}
	return up.commit(ctx, spec)
}

// groupsBeyond returns the groups of which not all members are among the first admitted
// actions. A group counts as a whole, so the server refuses it as a whole.
func groupsBeyond(actions []batch.Action, admitted int) map[string]bool {
	refused := make(map[string]bool)
	for i := admitted; i < len(actions); i++ {
		if actions[i].Group != "" {
			refused[actions[i].Group] = true
		}
	}
	return refused
}

// gather returns the results of a batch in order. An action that has not ended is
// pending, and so is one whose result cannot be read: the batch goes on. gather leaves
// out a body for which the answer has no room, or for which there is no memory now; the
// client finds it at the batch that the Location header names. It fails only if the
// credential of the request is no longer valid: another error would make the client send
// the batch again, which has run.
func (s *Server) gather(c *gin.Context, b *batch.Batch, n int, held *reservation) ([]batch.Result, error) {
	results := make([]batch.Result, n)
	for i := range results {
		results[i].Index = i
	}
	ctx := c.Request.Context()
	room, bytes := s.answerBytes, int64(0)
	err := s.allPages(c, b, func(page [][]byte) (bool, error) {
		for _, encoded := range page {
			var r batch.Result
			if err := r.UnmarshalJSON(encoded); err != nil {
				return false, err
			}
			size := len(r.Body)
			if size > 0 && (room < size || held.answer(answerTimes*(bytes+int64(size))) != nil) {
				c.Header("Location", location(b.ID))
				r.Body, r.Truncated, size = nil, true, 0
			}
			room -= size
			bytes += int64(size)
			if r.Index >= 0 && r.Index < n {
				results[r.Index] = r
			}
		}
		return true, nil
	})
	switch {
	case errors.As(err, new(*dialect.UnauthorizedError)):
		return nil, err
	case err != nil:
		c.Header("Location", location(b.ID))
		s.cfg.Logger.WarnContext(ctx, "results not read", "request_id", requestID(c), "batch_id", b.ID, "error", err)
	}
	return results, nil
}
