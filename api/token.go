package api

import (
	"net/http"
	"slices"
	"strconv"

	"github.com/gin-gonic/gin"

	"github.com/batchd/batchd/api/auth"
	"github.com/batchd/batchd/api/dialect"
	"github.com/batchd/batchd/internal/batch"
)

// tokenSearch searches what a request sends to a target or to the receiver of its webhook for tokens that are meant for
// batchd: whoever has one acts as its owner.
type tokenSearch struct {
	jwt *auth.JWT // nil finds nothing
	// own are the headers of the request, and clean those of them that are in actions and have no token. Most actions
	// of a batch have the same, such as the credential of the request.
	own   http.Header
	clean []batch.Field
}

func (s *Server) newTokenSearch(own http.Header) *tokenSearch {
	return &tokenSearch{jwt: s.jwt, own: own}
}

const foundInside = "a token for batchd is in it, which is never sent to another server: leave it out"

// check refuses an action that has a token in it.
func (t *tokenSearch) check(index int, a *batch.Action) error {
	if t.jwt == nil {
		return nil
	}
	for pointer := "/actions/" + strconv.Itoa(index); a != nil; a, pointer = a.Undo, pointer+"/undo" {
		if at := t.find(a); at != "" {
			return &batch.InvalidError{Faults: []batch.Fault{{Index: index, Pointer: pointer + at, Detail: foundInside}}}
		}
	}
	return nil
}

// find returns where an action has a token, or "".
func (t *tokenSearch) find(a *batch.Action) string {
	for _, h := range a.Headers {
		if t.inHeader(h) {
			return "/headers/" + batch.EscapePointer(h.Name)
		}
	}
	for _, part := range []struct{ at, text string }{{"/path", a.Path}, {"/query", a.Query}, {"/id", a.ID}, {"/group", a.Group}} {
		if t.jwt.In([]byte(part.text)) {
			return part.at
		}
	}
	if t.jwt.In(a.Body) {
		return "/body"
	}
	return ""
}

func (t *tokenSearch) inHeader(h batch.Field) bool {
	if slices.Contains(t.clean, h) {
		return false
	}
	if t.jwt.In([]byte(h.Value)) || t.jwt.In([]byte(h.Name)) {
		return true
	}
	if slices.Contains(t.own.Values(h.Name), h.Value) {
		t.clean = append(t.clean, h)
	}
	return false
}

// checkSpec refuses a webhook or metadata with a token in them.
func (t *tokenSearch) checkSpec(spec *batch.Spec) error {
	at := ""
	switch {
	case t.jwt == nil:
	case t.jwt.In([]byte(spec.WebhookURL)):
		at = "/webhook/url"
	default:
		for key, value := range spec.Metadata {
			if t.jwt.In([]byte(key)) || t.jwt.In([]byte(value)) {
				at = "/metadata"
			}
		}
	}
	if at == "" {
		return nil
	}
	return &batch.InvalidError{Faults: []batch.Fault{{Index: -1, Pointer: at, Detail: foundInside}}}
}

// checkForwarded refuses credentials for a target that have a token for batchd in them, before a target gets them.
func (s *Server) checkForwarded(c *gin.Context, credentials dialect.Credentials) error {
	if s.jwt == nil {
		return nil
	}
	for _, one := range []struct{ where, text string }{
		{"the Authorization header", credentials.Authorization},
		{"the X-API-KEY header", credentials.APIKey},
		{"the X-USER-KEY header", credentials.UserKey},
		{"the token in the query", credentials.Token},
	} {
		if s.jwt.In([]byte(one.text)) {
			how := "leave it out, or send the credential of the target in its place"
			if principal(c).Mode == auth.ModePassthrough {
				how = "send it in X-Batchd-Key or as Authorization: Bearer"
			}
			return &batch.InvalidError{Faults: []batch.Fault{{
				Index: -1, Detail: one.where + " would go to the target, and has a token for batchd in it, which is never sent to another server: " + how,
			}}}
		}
	}
	return nil
}
