// Package auth determines who makes a request. A [Chain] asks the authenticators of the configured modes
// one after another; the first that finds a credential of its own decides. Package api checks what the
// [Principal] may do.
package auth

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/batchd/batchd/api/dialect"
	"github.com/batchd/batchd/internal/batch"
)

// Anonymous owns every batch if there is no authentication.
const Anonymous = "anonymous"

// Scope is a permission.
type Scope string

// The scopes. Every route of the API declares the one that it needs.
const (
	// Open is the scope of routes that need no credential: probes and the description.
	Open Scope = "open"
	// Any is the scope of routes that need a credential, whatever its scopes.
	Any Scope = "any"
	// Submit: submit batches, retry them, and deliver their webhooks again.
	Submit Scope = "submit"
	// Read: read batches, results and deliveries.
	Read Scope = "read"
	// Cancel: cancel and delete batches.
	Cancel Scope = "cancel"
	// Admin: the other scopes of the principal hold for the batches of all owners, except that what it submits is
	// its own. With it, a client may also read metrics and the checks of the server.
	Admin Scope = "admin"
)

// Scopes are the scopes of a principal.
type Scopes []Scope

// AllScopes returns the scopes that a principal can have.
func AllScopes() Scopes { return Scopes{Submit, Read, Cancel, Admin} }

// Has reports whether the scopes include one. Every principal has the scopes open and any.
func (s Scopes) Has(scope Scope) bool {
	return scope == Open || scope == Any || slices.Contains(s, scope)
}

// Principal is who makes a request, and what it may do.
type Principal struct {
	// Mode is the mode that authenticated the request.
	Mode Mode
	// Name names the principal in the audit log: the name of a key, the subject of a token. It is no
	// secret.
	Name string
	// Owner owns the batches that the principal submits. It is empty in the mode passthrough, where it
	// follows from the credential, the endpoint and the target.
	Owner string
	// Forward: an Authorization header that is still in the request is meant for the target.
	Forward bool
	Scopes  Scopes
	// Targets are the targets that the principal may send actions to. Nil means all.
	Targets []string
	// WebhookHosts are the hosts that the principal's webhooks may name. Nil means all that the settings
	// allow.
	WebhookHosts []string
	// Limits replace the configured limits of an owner. Nil replaces none.
	Limits *batch.OwnerLimits
	// Session is set if the principal signed in, and a cookie authenticates the request.
	Session *Session
	// Quotas replace the configured quotas of an owner. A zero field replaces nothing.
	Quotas batch.Quotas
	// Expires is when the credential expires. Zero means never.
	Expires time.Time
	// Check reports whether the credential is still valid; nil means that it is as long as the request
	// runs. It costs no exchange as a rule.
	Check func(ctx context.Context) error
}

// StillValid returns an error if the credential is no longer valid. A request that goes on for a while asks
// again: a revocation holds for it, too.
func (p *Principal) StillValid(ctx context.Context) error {
	if !p.Expires.IsZero() && !time.Now().Before(p.Expires) {
		return errExpired
	}
	if p.Check == nil {
		return nil
	}
	return p.Check(ctx)
}

var errExpired = &dialect.UnauthorizedError{Detail: "the credential has expired"}

// Allows reports whether the principal may send actions to a target.
func (p *Principal) Allows(target string) bool {
	return p.Targets == nil || slices.Contains(p.Targets, target)
}

// Authenticator finds who makes a request by one kind of credential. It is safe for concurrent use.
type Authenticator interface {
	// Authenticate returns nil without an error if the request has no credential of the
	// authenticator's kind. For one that is not valid, it returns a dialect.UnauthorizedError, and a
	// [batch.UnavailableError] if it cannot tell. It removes a credential from the request that is
	// batchd's own: what remains in the request may be sent to a target.
	Authenticate(ctx context.Context, r *http.Request) (*Principal, error)
}

// Chain asks authenticators in their order. It implements [Authenticator].
type Chain []Authenticator

// Authenticate implements [Authenticator].
func (c Chain) Authenticate(ctx context.Context, r *http.Request) (*Principal, error) {
	for _, a := range c {
		if p, err := a.Authenticate(ctx, r); p != nil || err != nil {
			return p, err
		}
	}
	return nil, nil
}

// None is the authenticator of the mode none: all clients are one principal.
type None struct{}

// Authenticate implements [Authenticator].
func (None) Authenticate(context.Context, *http.Request) (*Principal, error) {
	return &Principal{Mode: ModeNone, Name: Anonymous, Owner: Anonymous, Scopes: Scopes{Submit, Read, Cancel}}, nil
}

// Passthrough is the authenticator of the mode passthrough: the credential of a request is the target's, and
// identifies the owner. It accepts every request. Package api determines the owner, and refuses a request
// whose endpoint does not find its credential.
type Passthrough struct{}

// Authenticate implements [Authenticator].
func (Passthrough) Authenticate(context.Context, *http.Request) (*Principal, error) {
	return &Principal{Mode: ModePassthrough, Forward: true, Scopes: Scopes{Submit, Read, Cancel}}, nil
}
