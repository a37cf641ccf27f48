package api

import (
	"bytes"
	"strconv"
	"strings"

	"github.com/batchd/batchd/api/auth"
	"github.com/batchd/batchd/internal/batch"
)

// checkToken refuses an action that has the token of its request: a token for batchd must not go to a target, which
// could use it.
func checkToken(p *auth.Principal, index int, a *batch.Action) error {
	token := p.Token.Reveal()
	if token == "" {
		return nil
	}
	for pointer := "/actions/" + strconv.Itoa(index); a != nil; a, pointer = a.Undo, pointer+"/undo" {
		if at := tokenIn(token, a); at != "" {
			return &batch.InvalidError{Faults: []batch.Fault{{
				Index: index, Pointer: pointer + at, Detail: "it has the token that authenticates the request, which is not sent to a target: leave it out",
			}}}
		}
	}
	return nil
}

// tokenIn returns where an action has a token, or "".
func tokenIn(token string, a *batch.Action) string {
	for _, h := range a.Headers {
		if strings.Contains(h.Value, token) {
			return "/headers/" + h.Name
		}
	}
	switch {
	case strings.Contains(a.Path, token):
		return "/path"
	case strings.Contains(a.Query, token):
		return "/query"
	case bytes.Contains(a.Body, []byte(token)):
		return "/body"
	}
	return ""
}
