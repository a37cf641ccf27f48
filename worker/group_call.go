package worker

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/batchd/batchd/internal/batch"
)

// request returns the request of the present step, or the reason not to send it. It
// returns neither if there is nothing to take back.
func (s *saga) request(ctx context.Context) (*batch.Action, *batch.Failure) {
	if !s.known {
		return nil, internal("the target %q is no longer configured", s.begun.Target)
	}
	switch s.g.Step {
	case batch.GroupMember:
		return s.member(ctx)
	case batch.GroupUndo:
		return s.undo(ctx)
	case batch.GroupBegin, batch.GroupCommit, batch.GroupRollback, batch.GroupEnd:
	}
	x := s.target.Transactions
	if x == nil {
		return nil, internal("the target %q is no longer configured with transactions", s.begun.Target)
	}
	call := map[batch.GroupStep]batch.Call{batch.GroupBegin: x.Begin, batch.GroupCommit: x.Commit, batch.GroupRollback: x.Rollback}[s.g.Step]
	a := &batch.Action{Method: call.Method, Path: withID(call.Path, s.g.Transaction)}
	// The calls carry the credentials of the client that submitted the group.
	a.Query = credentials(s.begun.Action.Query)
	for _, h := range s.begun.Action.Headers {
		if batch.IsCredential(h.Name) {
			a.Headers = append(a.Headers, h)
		}
	}
	if s.g.Step == batch.GroupRollback {
		a.Retry = batch.RetrySafe
	}
	return s.keyed(a), nil
}

// credentials returns the part of a query that usually carries a secret.
func credentials(query string) string {
	var kept []string
	for pair := range strings.SplitSeq(query, "&") {
		name, _, _ := strings.Cut(pair, "=")
		plain, err := url.QueryUnescape(name)
		if err != nil {
			continue
		}
		switch strings.ToLower(plain) {
		case "token", "access_token", "api_key", "apikey", "_api_key", "_user_key":
			kept = append(kept, pair)
		}
	}
	return strings.Join(kept, "&")
}

// member returns the member that the present step sends.
func (s *saga) member(ctx context.Context) (*batch.Action, *batch.Failure) {
	a, failure := s.load(ctx, s.g.At)
	switch {
	case failure != nil:
		return nil, failure
	case a.Refusal != nil:
		return nil, a.Refusal
	}
	if s.g.Transaction != "" {
		if s.target.Transactions == nil {
			return nil, internal("the target %q is no longer configured with transactions", s.begun.Target)
		}
		return a, nil
	}
	if s.g.At < len(s.g.Members)-1 && a.Undo == nil && !batch.Reads(a.Method) {
		return nil, internal("the target %q has no transactions, and the action has no undo", s.begun.Target)
	}
	if a.Undo != nil { // better to find a bad undo before it is needed
		if why := batch.Forbids(&s.target, a.Undo); why != "" {
			return nil, &batch.Failure{Code: batch.CodeBlocked, Message: fmt.Sprintf("target %q: not sent, because of its undo: %s", s.begun.Target, why)}
		}
	}
	return a, nil
}

// undo returns the undo of the present member, or nil if it has none.
func (s *saga) undo(ctx context.Context) (*batch.Action, *batch.Failure) {
	undo, ok := s.undos[s.g.At]
	if !ok {
		a, failure := s.load(ctx, s.g.At)
		if failure != nil {
			return nil, failure
		}
		if undo = a.Undo; undo == nil && batch.Reads(a.Method) {
			return nil, nil
		}
	}
	if undo == nil {
		return nil, internal("the action has no undo")
	}
	sent := *undo
	sent.Retry = batch.RetrySafe
	return s.keyed(&sent), nil
}

// load reads a member's action.
func (s *saga) load(ctx context.Context, at int) (a *batch.Action, _ *batch.Failure) {
	index := s.g.Members[at].Index
	err := s.w.retryUnavailable(ctx, func(ctx context.Context) (err error) {
		a, err = s.w.cfg.Ledger.Member(ctx, s.id, index)
		return err
	})
	switch {
	case errors.Is(err, batch.ErrNotFound):
		s.erased = true
		return nil, &batch.Failure{Code: batch.CodeCancelled, Message: "the batch was erased"}
	case err != nil:
		s.w.log.ErrorContext(ctx, "member of a group not read", "batch", s.id, "index", index, "error", err)
		return nil, internal("the action could not be read")
	}
	if a.Undo != nil {
		s.undos[at] = a.Undo
	}
	return a, nil
}

// keyed gives an idempotency key to a request that is no action of the batch. With the
// key of a member, the target would mistake the request for that member.
func (s *saga) keyed(a *batch.Action) *batch.Action {
	name := s.target.IdempotencyKeyHeader
	if name == "" {
		return a
	}
	if _, own := a.Header(name); !own {
		sum := sha256.Sum256([]byte(s.id + "/" + strconv.Itoa(s.g.Members[s.g.At].Index) + "/" + string(s.g.Step)))
		a.Headers = append(slices.Clone(a.Headers), batch.Field{Name: name, Value: hex.EncodeToString(sum[:16])})
	}
	return a
}

func internal(format string, args ...any) *batch.Failure {
	return &batch.Failure{Code: batch.CodeInternal, Message: fmt.Sprintf(format, args...)}
}

func withID(path, id string) string { return strings.ReplaceAll(path, "{id}", url.PathEscape(id)) }

// maxTransactionID is the most bytes that a transaction's id may have.
const maxTransactionID = 1024

// transactionID finds the transaction's id in the answer to begin.
func (s *saga) transactionID(r *batch.Result) (string, error) {
	x := s.target.Transactions
	id, where := "", "the header "+x.ID.Header
	if x.ID.Pointer != "" {
		where = "the JSON body at " + x.ID.Pointer
		id = lookUp(r.Body, x.ID.Pointer)
	} else {
		for _, h := range r.Headers {
			if strings.EqualFold(h.Name, x.ID.Header) {
				id = h.Value
				break
			}
		}
	}
	if id == "" {
		return "", fmt.Errorf("its answer has no transaction id in %s", where)
	}
	named := &batch.Action{Method: x.Commit.Method, Path: withID(x.Commit.Path, id), Headers: []batch.Field{{Name: x.SendAs.Header, Value: id}}}
	if len(id) > maxTransactionID || len(named.Validate()) > 0 {
		return "", fmt.Errorf("the transaction id in %s cannot be put into a path and a header", where)
	}
	named.Method, named.Path = x.Rollback.Method, withID(x.Rollback.Path, id)
	if len(named.Validate()) > 0 {
		return "", fmt.Errorf("the transaction id in %s cannot be put into a path", where)
	}
	return id, nil
}

// lookUp returns the string or number at a JSON pointer (RFC 6901), or the empty
// string.
func lookUp(body []byte, pointer string) string {
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	var value any
	if dec.Decode(&value) != nil {
		return ""
	}
	for token := range strings.SplitSeq(pointer[1:], "/") {
		token = strings.NewReplacer("~1", "/", "~0", "~").Replace(token)
		switch v := value.(type) {
		case map[string]any:
			value = v[token]
		case []any:
			i, err := strconv.Atoi(token)
			if err != nil || i < 0 || i >= len(v) || strconv.Itoa(i) != token {
				return ""
			}
			value = v[i]
		default:
			return ""
		}
	}
	switch v := value.(type) {
	case string:
		return v
	case json.Number:
		return v.String()
	}
	return ""
}
