package auth

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/batchd/batchd/api/dialect"
)

const (
	// mostTokenBytes bounds a token.
	mostTokenBytes = 16 << 10
	// clockSkew is how far the clock of the issuer may be ahead. A token that has expired gets no such time.
	clockSkew = 30 * time.Second
)

// The reasons why a token does not count. They repeat nothing of it.
var (
	errSignature  = &dialect.UnauthorizedError{Detail: "the token is not valid: it is not a JWT with an asymmetric signature"}
	errUnknownKey = &dialect.UnauthorizedError{Detail: "the token is not valid: none of the issuer's keys signed it"}
)

func badToken(format string, args ...any) error {
	return &dialect.UnauthorizedError{Detail: "the token is not valid: " + fmt.Sprintf(format, args...)}
}

// JWT is the authenticator of the mode jwt: tokens that an OpenID provider signed.
//
// A token whose claim iss, unverified, is the configured issuer belongs to this authenticator, also if it then turns
// out to be invalid: it is neither tried as another credential nor passed on to a target.
type JWT struct {
	cfg    JWTConfig
	issuer *issuer
	check  *oidc.IDTokenVerifier
	// Only: no other mode takes bearer tokens, so every one of them is meant to be a token of the issuer.
	Only bool
}

// NewJWT returns an authenticator by the tokens of an issuer. It does not ask the issuer yet.
func NewJWT(cfg JWTConfig, log *slog.Logger) (*JWT, error) {
	cfg = cfg.WithDefaults()
	from, err := newIssuer(cfg, log)
	if err != nil {
		return nil, fmt.Errorf("configure the issuer of tokens: %w", err)
	}
	return &JWT{cfg: cfg, issuer: from, check: verifier(from, cfg.Audience)}, nil
}

// verifier returns go-oidc's checks of a token.
func verifier(from *issuer, audience string) *oidc.IDTokenVerifier {
	names := make([]string, len(algorithms))
	for i, algorithm := range algorithms {
		names[i] = string(algorithm)
	}
	return oidc.NewVerifier(from.url, keySetOf{from}, &oidc.Config{ClientID: audience, SupportedSigningAlgs: names})
}

// Warm asks the issuer for its keys before a token needs them, so that a wrong setting shows in the log.
func (j *JWT) Warm() { _, _ = j.issuer.start() }

// Owns reports whether a text has a token of the issuer, valid or not.
func (j *JWT) Owns(text string) bool { return slices.ContainsFunc(words(text), j.isFromIssuer) }

// isFromIssuer reports whether a text is a token with the issuer in its unverified claims.
func (j *JWT) isFromIssuer(token string) bool { return claimsIssuer(token, j.cfg.Issuer) }

// words splits the value of a header at everything that is in no token.
func words(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r <= ' ' || r == ',' || r == ';' || r == '"' || r == '\'' || r == ':' })
}

// Authenticate implements [Authenticator].
func (j *JWT) Authenticate(ctx context.Context, r *http.Request) (*Principal, error) {
	token, forward, err := j.take(r)
	if token == "" || err != nil {
		return nil, err
	}
	claims, err := j.verify(ctx, token, j.check, j.cfg.Audience)
	if err != nil {
		return nil, err
	}
	for name, values := range r.Header { // a copy of the token must not go to a target either
		if slices.ContainsFunc(values, func(value string) bool { return strings.Contains(value, token) }) {
			r.Header.Del(name)
		}
	}
	p, err := j.principal(claims)
	if err != nil {
		return nil, err
	}
	p.Forward = forward
	return p, nil
}

// take takes the token out of a request. Forward: an Authorization that remains is meant for the target.
func (j *JWT) take(r *http.Request) (token string, forward bool, err error) {
	own, authorization := r.Header.Values(HeaderKey), r.Header.Values("Authorization")
	inOwn := slices.ContainsFunc(own, j.Owns)
	inAuthorization := slices.ContainsFunc(authorization, j.Owns)
	bearer := len(authorization) > 0 && isBearer(authorization[0])
	switch {
	case inOwn && inAuthorization || inOwn && len(own) > 1 || inAuthorization && len(authorization) > 1:
		r.Header.Del(HeaderKey)
		r.Header.Del("Authorization")
		return "", false, badToken("the request has several credentials: send one token, in %s or as Authorization: Bearer", HeaderKey)
	case inOwn:
		r.Header.Del(HeaderKey)
		return strings.TrimSpace(own[0]), true, nil
	case inAuthorization, j.Only && bearer:
		r.Header.Del("Authorization")
		if !bearer {
			return "", false, badToken("a token is sent in %s or as Authorization: Bearer", HeaderKey)
		}
		if token = strings.TrimSpace(strings.TrimSpace(authorization[0])[len("Bearer"):]); token == "" {
			return "", false, badToken("it is empty")
		}
		return token, false, nil
	}
	return "", false, nil
}

func isBearer(value string) bool {
	fields := strings.Fields(value)
	return len(fields) > 0 && strings.EqualFold(fields[0], "Bearer")
}

// verify returns the claims of a token that counts for an audience.
func (j *JWT) verify(ctx context.Context, token string, check *oidc.IDTokenVerifier, audience string) (claims, error) {
	// What costs nothing comes first: an invented token must cost neither a signature nor an exchange.
	got, err := readToken(token)
	if err != nil {
		return nil, err
	}
	if err := got.check(j.cfg.Issuer, audience, time.Now()); err != nil {
		return nil, err
	}
	reason := new(error)
	if _, err := check.Verify(context.WithValue(ctx, reasonKey{}, reason), token); err != nil {
		if *reason != nil {
			return nil, *reason
		}
		return nil, badToken("its claims are not those of a token for this server")
	}
	return got, nil
}

// keySetOf keeps the error of the issuer for verify, because go-oidc makes a text of it.
type keySetOf struct{ *issuer }

type reasonKey struct{}

// VerifySignature implements [oidc.KeySet].
func (k keySetOf) VerifySignature(ctx context.Context, token string) ([]byte, error) {
	payload, err := k.issuer.VerifySignature(ctx, token)
	if reason, ok := ctx.Value(reasonKey{}).(*error); ok && err != nil {
		*reason = err
	}
	return payload, err
}

// principal returns who has the claims.
func (j *JWT) principal(c claims) (*Principal, error) {
	name, err := c.owner(j.cfg.OwnerClaim)
	if err != nil {
		return nil, err
	}
	scopes, err := j.scopes(c)
	if err != nil {
		return nil, err
	}
	p := &Principal{Mode: ModeJWT, Name: escapeOwner(name), Owner: JWTOwner(j.cfg.Issuer, name), Scopes: scopes, Expires: c.time("exp")}
	if j.cfg.TargetsClaim != "" {
		targets, err := c.texts(j.cfg.TargetsClaim)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(targets, "*") {
			p.Targets = append([]string{}, targets...)
		}
	}
	return p, nil
}

// scopes returns the scopes of a token.
func (j *JWT) scopes(c claims) (Scopes, error) {
	values, err := c.texts(j.cfg.ScopesClaim)
	if err != nil {
		return nil, err
	}
	var granted []Scope
	for _, value := range values {
		bare, ours := strings.CutPrefix(value, "batchd:")
		switch scope := Scope(bare); scope {
		case Submit, Read, Cancel:
			granted = append(granted, scope)
		case Admin:
			if ours { // other applications have an admin, too
				granted = append(granted, scope)
			}
		case Open, Any: // no token grants them
		}
		for _, rule := range j.cfg.Scopes {
			if rule.Value == value {
				granted = append(granted, rule.Grant...)
			}
		}
	}
	if len(granted) == 0 {
		granted = j.cfg.DefaultScopes
	}
	return slices.DeleteFunc(AllScopes(), func(s Scope) bool { return !slices.Contains(granted, s) }), nil
}
