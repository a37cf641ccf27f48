package auth

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/batchd/batchd/api/dialect"
)

// CallbackPath is where the OpenID provider sends the browser back to.
const CallbackPath = "/session/callback"

var errLogin = &dialect.UnauthorizedError{Detail: "the sign-in is not the one that this browser began, or took too long: start again at /session/login"}

// CanLogin reports whether people can sign in at the OpenID provider.
func (s *Sessions) CanLogin() bool { return s.jwt != nil && s.cfg.ClientID != "" }

// login is a sign-in at the provider that is under way. Its secret is in a cookie of the browser. State, nonce and
// verifier follow from it, so that nothing has to be stored for a visitor who may never come back.
type login struct {
	secret   []byte
	returnTo string
	// group and id are where the session is stored that the browser had when it began, or empty. The provider sends
	// the browser back without the cookie of that session, which is SameSite=Strict.
	group, id string
}

func (l *login) derive(what string) string {
	mac := hmac.New(sha256.New, l.secret)
	mac.Write([]byte("batchd sign-in " + what))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// cookie returns the value of the cookie.
func (l *login) cookie() string {
	value := base64.RawURLEncoding.EncodeToString(l.secret) + "." + base64.RawURLEncoding.EncodeToString([]byte(l.returnTo))
	if l.id != "" {
		value += "." + l.group + "." + l.id
	}
	return value
}

// readLogin reads the value of a cookie.
func readLogin(value string) (*login, error) {
	parts := strings.Split(value, ".")
	if len(parts) != 2 && len(parts) != 4 {
		return nil, errLogin
	}
	secret, err := base64.RawURLEncoding.Strict().DecodeString(parts[0])
	if err != nil || len(secret) != idBytes {
		return nil, errLogin
	}
	returnTo, err := base64.RawURLEncoding.Strict().DecodeString(parts[1])
	if err != nil || !IsLocalPath(string(returnTo)) {
		return nil, errLogin
	}
	l := &login{secret: secret, returnTo: string(returnTo)}
	if len(parts) == 4 {
		if l.group, l.id = parts[2], parts[3]; !isHex(l.group, groupBytes) || !isHex(l.id, sha256.Size) {
			return nil, errLogin
		}
	}
	return l, nil
}

// isHex reports whether a text is n bytes in hexadecimal.
func isHex(text string, n int) bool {
	raw, err := hex.DecodeString(text)
	return err == nil && len(raw) == n
}

// Login begins a sign-in at the provider. It returns where to send the browser, and the cookie by which Callback
// recognises it.
func (s *Sessions) Login(r *http.Request, returnTo string) (location string, cookie *http.Cookie, err error) {
	client, err := s.client(r.Context(), r)
	if err != nil {
		return "", nil, err
	}
	l := &login{secret: make([]byte, idBytes), returnTo: returnTo}
	if before, err := s.takeCookie(r); err == nil {
		l.group, l.id, _ = place(before)
	}
	_, _ = rand.Read(l.secret) // never fails: crypto/rand ends the program instead
	location = client.AuthCodeURL(l.derive("state"), oidc.Nonce(l.derive("nonce")), oauth2.S256ChallengeOption(l.derive("verifier")))
	// Lax: the browser comes back from another site.
	return location, s.cookie(r, loginName, l.cookie(), loginTime, http.SameSiteLaxMode), nil
}

// client returns this server as a client of the provider.
func (s *Sessions) client(ctx context.Context, r *http.Request) (*oauth2.Config, error) {
	provider, err := s.jwt.issuer.found(ctx)
	if err != nil {
		return nil, err
	}
	at := provider.Endpoint()
	for _, text := range []string{at.AuthURL, at.TokenURL} {
		u, err := url.Parse(text)
		if err != nil || u.Scheme != "https" && (isHTTPS(s.jwt.cfg.Issuer) || u.Scheme != "http" || !isLoopback(u.Hostname())) {
			return nil, &IssuerError{RetryAfter: readEvery, Err: errors.New("the issuer's metadata name an endpoint that is not https")}
		}
	}
	return &oauth2.Config{
		ClientID: s.cfg.ClientID, ClientSecret: s.cfg.ClientSecret.Reveal(), Endpoint: at, RedirectURL: s.base(r) + CallbackPath, Scopes: s.cfg.Scopes,
	}, nil
}

// found returns the metadata of the issuer, and reads them as far as their rate allows.
func (i *issuer) found(ctx context.Context) (*oidc.Provider, error) {
	current := func() *oidc.Provider {
		i.mu.Lock()
		defer i.mu.Unlock()
		return i.provider
	}
	if provider := current(); provider != nil {
		return provider, nil
	}
	read, err := i.start() //nolint:contextcheck // other requests wait for the same metadata
	if err != nil {
		return nil, err
	}
	if read != nil {
		select {
		case <-read.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if provider := current(); provider != nil {
			return provider, nil
		}
		err = read.err
	}
	return nil, &IssuerError{RetryAfter: readEvery, Err: fmt.Errorf("it was asked a moment ago: %w", errors.Join(err))}
}

// Callback ends a sign-in at the provider, ends the session that the browser had before, and starts a new one. It returns
// the values of the session's cookie and the path to return to. From is the address of the client, whose sign-ins are
// bounded; beyond that it returns a [BusyError].
func (s *Sessions) Callback(r *http.Request, from string, query url.Values) (*SignIn, error) {
	ctx := r.Context()
	cookies := r.CookiesNamed(s.name(r, loginName))
	if len(cookies) != 1 {
		return nil, errLogin
	}
	l, err := readLogin(cookies[0].Value)
	if err != nil {
		return nil, err
	}
	code, state := query["code"], query["state"]
	switch {
	case len(state) != 1 || subtle.ConstantTimeCompare([]byte(state[0]), []byte(l.derive("state"))) != 1:
		return nil, errLogin
	case query.Has("iss") && !slices.Equal(query["iss"], []string{s.jwt.cfg.Issuer}):
		return nil, errLogin // RFC 9207
	case query.Has("error"):
		return nil, &dialect.UnauthorizedError{Detail: "the provider did not sign you in: start again at /session/login"}
	case len(code) != 1 || code[0] == "":
		return nil, errLogin
	}
	client, err := s.client(ctx, r)
	if err != nil {
		return nil, err
	}
	if err := s.exchanges.take(l.secret, from); err != nil {
		return nil, err
	}
	token, err := client.Exchange(oidc.ClientContext(ctx, s.jwt.issuer.client), code[0], oauth2.VerifierOption(l.derive("verifier")))
	if errors.As(err, new(*oauth2.RetrieveError)) {
		return nil, &dialect.UnauthorizedError{Detail: "the provider refused the code of the sign-in: start again at /session/login"}
	}
	if err != nil {
		return nil, &IssuerError{RetryAfter: readEvery, Err: errors.New("it did not answer with a token")}
	}
	raw, _ := token.Extra("id_token").(string)
	claims, err := s.jwt.verify(ctx, raw, s.idTokens, s.cfg.ClientID)
	if err != nil {
		return nil, err
	}
	nonce, _ := claims["nonce"].(string)
	party, several := claims["azp"]
	if subtle.ConstantTimeCompare([]byte(nonce), []byte(l.derive("nonce"))) != 1 || several && party != any(s.cfg.ClientID) {
		return nil, errLogin
	}
	p, err := s.jwt.principal(claims)
	if err != nil {
		return nil, err
	}
	if l.id != "" {
		if err := s.store.EndSession(ctx, l.group, l.id); err != nil {
			return nil, err
		}
	}
	value, err := s.begin(ctx, p.Owner, &sessionRecord{Issuer: s.jwt.cfg.Issuer, Name: p.Name, Owner: p.Owner, Scopes: p.Scopes, Targets: p.Targets})
	return &SignIn{Cookie: value, Principal: p, ReturnTo: l.returnTo}, err
}

// ForgetLogin returns the cookie that removes that of a sign-in.
func (s *Sessions) ForgetLogin(r *http.Request) *http.Cookie {
	return s.cookie(r, loginName, "", loginTime, http.SameSiteLaxMode)
}
