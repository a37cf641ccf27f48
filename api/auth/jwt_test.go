package auth_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/api/auth"
	"github.com/batchd/batchd/api/dialect"
	"github.com/batchd/batchd/internal/oidctest"
	"github.com/batchd/batchd/internal/setting"
)

const audience = "batchd"

func jwtOf(t *testing.T, issuer string, options ...func(*auth.JWTConfig)) *auth.JWT {
	t.Helper()
	cfg := auth.JWTConfig{Issuer: issuer, Audience: audience}
	for _, o := range options {
		o(&cfg)
	}
	j, err := auth.NewJWT(cfg, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	return j
}

// with returns a request with headers, each "Name: value".
func with(headers ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Add(name, value)
	}
	return r
}

func bearer(token string) *http.Request { return with("Authorization: Bearer " + token) }

func requireRefused(t *testing.T, j *auth.JWT, r *http.Request, about string) {
	t.Helper()
	p, err := j.Authenticate(t.Context(), r)
	require.Nil(t, p, about)
	var refused *dialect.UnauthorizedError
	require.ErrorAs(t, err, &refused, about)
	require.Empty(t, r.Header.Get("Authorization"), "%s: a token must not be left for a target", about)
}

// part encodes a part of a token.
func part(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }

// signed signs any payload with any header members.
func signed(t *testing.T, algorithm jose.SignatureAlgorithm, key any, header map[jose.HeaderKey]any, payload string) string {
	t.Helper()
	options := &jose.SignerOptions{ExtraHeaders: header}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: key}, options)
	require.NoError(t, err)
	out, err := signer.Sign([]byte(payload))
	require.NoError(t, err)
	token, err := out.CompactSerialize()
	require.NoError(t, err)
	return token
}

func TestATokenOfTheIssuerIsAPrincipal(t *testing.T) {
	t.Parallel()
	i := oidctest.Start(t)
	j := jwtOf(t, i.URL, func(c *auth.JWTConfig) { c.TargetsClaim = "targets" })
	exp := time.Now().Add(10 * time.Minute).Truncate(time.Second)
	for _, audiences := range []any{audience, []string{"other", audience}} {
		r := bearer(i.Token(audience, "alice", map[string]any{"aud": audiences, "exp": exp.Unix(), "targets": []string{"crm"}, "scope": "openid submit batchd:read admin"}))
		p, err := j.Authenticate(t.Context(), r)
		require.NoError(t, err)
		require.Equal(t, auth.ModeJWT, p.Mode)
		require.Equal(t, "alice", p.Name)
		require.Equal(t, auth.JWTOwner(i.URL, "alice"), p.Owner)
		require.Equal(t, auth.Scopes{auth.Submit, auth.Read}, p.Scopes, "a scope admin can be another application's")
		require.Equal(t, []string{"crm"}, p.Targets)
		require.True(t, p.Expires.Equal(exp))
		require.False(t, p.Forward)
		require.Empty(t, r.Header.Get("Authorization"))
	}
	require.Equal(t, 2, i.Requests(), "the metadata and the keys, once")
}

// Whoever may set an e-mail address at the issuer would otherwise be the owner of its batches.
func TestAnEMailAddressIsVerifiedHoweverItIsNamed(t *testing.T) {
	t.Parallel()
	i := oidctest.Start(t)
	for claim, others := range map[string]func(address string, verified any) map[string]any{
		"email":  func(a string, v any) map[string]any { return map[string]any{"email": a, "email_verified": v} },
		"/email": func(a string, v any) map[string]any { return map[string]any{"email": a, "email_verified": v} },
		"/user/email": func(a string, v any) map[string]any {
			return map[string]any{"user": map[string]any{"email": a, "email_verified": v}, "email_verified": true}
		},
		"https://example.com/email": func(a string, v any) map[string]any {
			return map[string]any{"https://example.com/email": a, "https://example.com/email_verified": v, "email_verified": true}
		},
	} {
		j := jwtOf(t, i.URL, func(c *auth.JWTConfig) { c.OwnerClaim = claim })
		for _, verified := range []any{false, nil, "true", 1} {
			_, err := j.Authenticate(t.Context(), bearer(i.Token("batchd", "x", others("a@example.com", verified))))
			require.ErrorContains(t, err, "is not verified", "%s %v", claim, verified)
		}
		p, err := j.Authenticate(t.Context(), bearer(i.Token("batchd", "x", others("a@example.com", true))))
		require.NoError(t, err, claim)
		require.Equal(t, auth.JWTOwner(i.URL, "a@example.com"), p.Owner)
	}
}

func TestScopesTargetsAndOwnersComeFromClaims(t *testing.T) {
	t.Parallel()
	i := oidctest.Start(t)
	j := jwtOf(t, i.URL, func(c *auth.JWTConfig) {
		c.OwnerClaim, c.ScopesClaim, c.TargetsClaim = "email", "/realm_access/roles", "https://batchd/targets"
		c.Scopes = []auth.ScopeRule{{Value: "ops", Grant: []auth.Scope{auth.Admin, auth.Read}}, {Value: "team/a", Grant: []auth.Scope{auth.Submit}}}
		c.DefaultScopes = []auth.Scope{auth.Read}
	})
	for _, row := range []struct {
		claims  map[string]any
		scopes  auth.Scopes
		targets []string
		refused string
	}{
		{claims: map[string]any{"realm_access": map[string]any{"roles": []string{"ops", "team/a", "x"}}}, scopes: auth.Scopes{auth.Submit, auth.Read, auth.Admin}, targets: []string{}},
		{claims: map[string]any{"realm_access": map[string]any{"roles": []string{"x"}}, "https://batchd/targets": "crm billing"}, scopes: auth.Scopes{auth.Read}, targets: []string{"crm", "billing"}},
		{claims: map[string]any{"https://batchd/targets": []string{"*"}}, scopes: auth.Scopes{auth.Read}},
		{claims: map[string]any{"realm_access": "x"}, scopes: auth.Scopes{auth.Read}, targets: []string{}},
		{claims: map[string]any{"realm_access": map[string]any{"roles": 7}}, refused: "/realm_access/roles is neither a text nor a list of texts"},
		{claims: map[string]any{"realm_access": map[string]any{"roles": []any{"ops", true}}}, refused: "neither a text"},
		{claims: map[string]any{"https://batchd/targets": map[string]any{}}, refused: "neither a text"},
		{claims: map[string]any{"email_verified": false}, refused: "email is not verified"},
		{claims: map[string]any{"email_verified": "true"}, refused: "email is not verified"},
		{claims: map[string]any{"email_verified": nil}, refused: "email is not verified"},
		{claims: map[string]any{"email": nil}, refused: "email, which names the owner, is missing"},
	} {
		all := map[string]any{"email": "a@example.com", "email_verified": true}
		maps.Copy(all, row.claims)
		p, err := j.Authenticate(t.Context(), bearer(i.Token(audience, "sub", all)))
		if row.refused != "" {
			require.ErrorContains(t, err, row.refused)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, row.scopes, p.Scopes, row.claims)
		require.Equal(t, row.targets, p.Targets, row.claims)
		require.Equal(t, "a@example.com", p.Name)
	}
}

func TestATokenWithoutScopesMayDoNothingByDefault(t *testing.T) {
	t.Parallel()
	i := oidctest.Start(t)
	p, err := jwtOf(t, i.URL).Authenticate(t.Context(), bearer(i.Token(audience, "a", map[string]any{"scope": "openid profile admin"})))
	require.NoError(t, err)
	require.Empty(t, p.Scopes)
}

func TestHostileTokensAreRefused(t *testing.T) {
	t.Parallel()
	i := oidctest.Start(t)
	j := jwtOf(t, i.URL)
	key, kid := i.Key()
	_, err := j.Authenticate(t.Context(), bearer(i.Token(audience, "alice", nil)))
	require.NoError(t, err, "the issuer's keys are known, so none of the tokens is refused because they are not")
	asked := i.Requests()

	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	require.NoError(t, err)
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	strange, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	claims := func(others map[string]any) string {
		text, err := json.Marshal(i.Claims(audience, "alice", others))
		require.NoError(t, err)
		return string(text)
	}
	good := claims(nil)
	header := map[jose.HeaderKey]any{"kid": kid}
	rs := func(payload string) string { return signed(t, jose.RS256, key, header, payload) }
	of := func(others map[string]any) string { return rs(claims(others)) }
	in := func(d time.Duration) int64 { return time.Now().Add(d).Unix() }
	valid := rs(good)
	parts := strings.Split(valid, ".")
	raw := func(headerText string) string { return part(headerText) + "." + parts[1] + "." + parts[2] }

	rows := map[string]string{
		"alg none":                 part(`{"alg":"none"}`) + "." + part(good) + ".",
		"alg None":                 part(`{"alg":"None"}`) + "." + part(good) + ".",
		"alg none with the kid":    part(`{"alg":"none","kid":"`+kid+`"}`) + "." + part(good) + "." + parts[2],
		"no alg":                   raw(`{"kid":"` + kid + `"}`),
		"alg twice":                raw(`{"alg":"RS256","alg":"none","kid":"` + kid + `"}`),
		"alg in another case":      raw(`{"alg":"rs256","kid":"` + kid + `"}`),
		"HS256 with the PEM":       signed(t, jose.HS256, public, header, good),
		"HS256 with the DER":       signed(t, jose.HS256, der, header, good),
		"HS256 with the modulus":   signed(t, jose.HS256, key.N.Bytes(), header, good),
		"HS512 with the PEM":       signed(t, jose.HS512, public, header, good),
		"another key, the kid":     signed(t, jose.RS256, strange, header, good),
		"another key in its jwk":   signed(t, jose.RS256, strange, map[jose.HeaderKey]any{"jwk": jose.JSONWebKey{Key: &strange.PublicKey}}, good),
		"another key at its jku":   signed(t, jose.RS256, strange, map[jose.HeaderKey]any{"jku": "http://127.0.0.1:1/keys", "kid": kid}, good),
		"no signature":             parts[0] + "." + parts[1] + ".",
		"another algorithm":        signed(t, jose.PS256, key, header, good),
		"critical extension":       signed(t, jose.RS256, key, map[jose.HeaderKey]any{"kid": kid, "crit": []string{"x"}, "x": 1}, good),
		"a logout token":           signed(t, jose.RS256, key, map[jose.HeaderKey]any{"kid": kid, "typ": "logout+jwt"}, good),
		"other claims":             parts[0] + "." + part(claims(map[string]any{"sub": "root"})) + "." + parts[2],
		"wrong issuer":             of(map[string]any{"iss": "https://evil.example"}),
		"issuer with a slash":      of(map[string]any{"iss": i.URL + "/"}),
		"issuer in capitals":       of(map[string]any{"iss": strings.ToUpper(i.URL)}),
		"issuer is a list":         of(map[string]any{"iss": []string{i.URL}}),
		"no issuer":                of(map[string]any{"iss": nil}),
		"wrong audience":           of(map[string]any{"aud": "other"}),
		"audience in another case": of(map[string]any{"aud": "BATCHD"}),
		"audience with a suffix":   of(map[string]any{"aud": "batchd "}),
		"no audience":              of(map[string]any{"aud": nil}),
		"empty audience":           of(map[string]any{"aud": ""}),
		"empty audiences":          of(map[string]any{"aud": []string{}}),
		"audience is a number":     of(map[string]any{"aud": 7}),
		"audience is nested":       of(map[string]any{"aud": [][]string{{audience}}}),
		"audience is an object":    of(map[string]any{"aud": map[string]any{audience: true}}),
		"expired":                  of(map[string]any{"exp": in(-time.Second)}),
		"expired long ago":         of(map[string]any{"exp": 1}),
		"no expiry":                of(map[string]any{"exp": nil}),
		"expiry is a text":         of(map[string]any{"exp": "9999999999"}),
		"expiry is huge":           rs(strings.Replace(good, `"exp":`, `"exp":1e300,"old":`, 1)),
		"expiry is negative":       of(map[string]any{"exp": -1}),
		"expiry is true":           of(map[string]any{"exp": true}),
		"future nbf":               of(map[string]any{"nbf": in(2 * time.Minute)}),
		"nbf is a text":            of(map[string]any{"nbf": "now"}),
		"future iat":               of(map[string]any{"iat": in(2 * time.Minute)}),
		"duplicate sub":            rs(strings.Replace(good, `"sub":`, `"sub":"root","sub":`, 1)),
		"duplicate aud":            rs(strings.Replace(good, `"aud":"batchd"`, `"aud":"other","aud":"batchd"`, 1)),
		"duplicate exp":            rs(strings.Replace(good, `"exp":`, `"exp":1,"exp":`, 1)),
		"aud in another case":      rs(strings.Replace(good, `"aud":`, `"AUD":`, 1)),
		"no sub":                   of(map[string]any{"sub": nil}),
		"sub is a number":          of(map[string]any{"sub": 7}),
		"sub is a list":            of(map[string]any{"sub": []string{"alice"}}),
		"empty sub":                of(map[string]any{"sub": ""}),
		"blank sub":                of(map[string]any{"sub": " "}),
		"sub with blanks":          of(map[string]any{"sub": "alice "}),
		"line break in sub":        of(map[string]any{"sub": "alice\nbob"}),
		"carriage return in sub":   of(map[string]any{"sub": "alice\rbob"}),
		"NUL in sub":               of(map[string]any{"sub": "alice\x00"}),
		"line separator in sub":    of(map[string]any{"sub": "alice\u2028"}),
		"long sub":                 of(map[string]any{"sub": strings.Repeat("a", 201)}),
		"invalid UTF-8":            rs(strings.Replace(good, `"alice"`, "\"al\xffice\"", 1)),
		"scope is a number":        of(map[string]any{"scope": 1}),
		"scope is an object":       of(map[string]any{"scope": map[string]any{"read": true}}),
		"claims are a list":        rs("[" + good + "]"),
		"claims are null":          rs("null"),
		"claims are not JSON":      rs("{" + good),
		"claims with a second":     rs(good + good),
		"huge":                     of(map[string]any{"x": strings.Repeat("a", 17<<10)}),
		"four parts":               valid + ".a",
		"two parts":                parts[0] + "." + parts[1],
		"padded":                   parts[0] + "." + parts[1] + "=." + parts[2],
		"standard base64":          parts[0] + "." + parts[1] + "." + strings.NewReplacer("-", "+", "_", "/").Replace(parts[2]),
		"blank inside":             parts[0] + ". " + parts[1] + "." + parts[2],
		"JSON serialization":       `{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`,
		"empty":                    "",
		"dots":                     "..",
	}
	j.Only = true
	for about, token := range rows {
		if about == "standard base64" && token == valid {
			continue // the signature has none of the two characters
		}
		requireRefused(t, j, bearer(token), about)
	}
	require.LessOrEqual(t, i.Requests()-asked, 4, "a token with a forged signature may have the keys read again, but their rate is bounded")

	// What is allowed is the counterpart of what is refused.
	for about, token := range map[string]string{
		"nbf within the skew": of(map[string]any{"nbf": in(10 * time.Second)}),
		"at+jwt":              signed(t, jose.RS256, key, map[jose.HeaderKey]any{"kid": kid, "typ": "at+jwt"}, good),
		"application/at+jwt":  signed(t, jose.RS256, key, map[jose.HeaderKey]any{"kid": kid, "typ": "application/at+JWT"}, good),
		"without a kid":       signed(t, jose.RS256, key, nil, good),
		"any characters":      of(map[string]any{"sub": "auth0|{a}:ü \"b\"/%2F"}),
	} {
		_, err := j.Authenticate(t.Context(), bearer(token))
		require.NoError(t, err, about)
	}
}

func TestOwnersOfTokensDiffer(t *testing.T) {
	t.Parallel()
	names := []string{"a", "A", "a%", "a%25", "a:b", "a|b", "a}b", "a{b", "a b", "a%20b", "ä", "key:a", "anonymous"}
	seen := map[string]bool{auth.Anonymous: true}
	for _, name := range names {
		seen[auth.KeyOwner(name)] = true
	}
	for _, issuer := range []string{"https://a.example", "https://b.example"} {
		for _, name := range names {
			owner := auth.JWTOwner(issuer, name)
			require.False(t, seen[owner], owner)
			seen[owner] = true
			require.Regexp(t, `^jwt:[0-9a-f]{12}:[A-Za-z0-9._@+|%-]+$`, owner)
		}
	}
}

// A token of the issuer is never another credential, however it is written and however broken it is.
func TestATokenOfTheIssuerIsNeverLeftForATarget(t *testing.T) {
	t.Parallel()
	i := oidctest.Start(t)
	j := jwtOf(t, i.URL)
	valid := i.Token(audience, "alice", nil)
	parts := strings.Split(valid, ".")
	payload := func(text string) string { return parts[0] + "." + part(text) + "." + parts[2] }
	for _, r := range []*http.Request{
		bearer(i.Token("other", "alice", nil)), bearer(i.Token(audience, "alice", map[string]any{"exp": 1})),
		bearer(payload(`{"iss":"` + i.URL + `/"}`)), bearer(payload(`{"ISS":"` + i.URL + `"}`)), bearer(payload(`{"iss":"x","iss":"` + i.URL + `"}`)),
		bearer(payload(`{"iss":"` + i.URL + `","x":`)), bearer(payload(`{"iss":"` + strings.ReplaceAll(i.URL, "/", `\/`) + `"}`)),
		bearer(part(`{"alg":"none"}`) + "." + parts[1] + "."), bearer(parts[0] + "." + parts[1] + "==." + parts[2]), bearer(valid + ".x.y"),
		with("Authorization: " + valid), with("Authorization: Token " + valid), with("Authorization: Bearer token=\"" + valid + "\""),
		with("Authorization: Bearer " + valid + ", Basic Zm9v"), with("Authorization: Basic Zm9v", "Authorization: Bearer "+valid),
		with("Authorization: Bearer "+valid, "Authorization: Bearer "+valid), with("Authorization: Bearer "+valid, "X-Batchd-Key: "+valid),
	} {
		requireRefused(t, j, r, fmt.Sprint(r.Header))
		require.Empty(t, r.Header.Get("X-Batchd-Key"))
	}
	for _, r := range []*http.Request{
		with("Authorization: bearer   " + valid), with("Authorization: BEARER\t" + valid), with("X-Batchd-Key: "+valid, "Authorization: Basic Zm9v"),
		with("Authorization: Bearer "+valid, "X-Api-Key: "+valid, "Cookie: t="+valid, "X-User-Key: mine"),
	} {
		p, err := j.Authenticate(t.Context(), r)
		require.NoError(t, err)
		require.Equal(t, r.Header.Get("Authorization") != "", p.Forward)
		require.NotContains(t, fmt.Sprint(r.Header), valid)
	}
	// Any other credential stays.
	for _, value := range []string{"Basic Zm9v", "Bearer opaque", "Bearer a.b.c", "Bearer " + payload(`{"iss":"https://other.example"}`), "Bearer " + payload(`{"sub":"x"}`)} {
		r := with("Authorization: " + value)
		p, err := j.Authenticate(t.Context(), r)
		require.NoError(t, err)
		require.Nil(t, p)
		require.Equal(t, value, r.Header.Get("Authorization"))
	}
}

func TestTheIssuerRotatesItsKey(t *testing.T) {
	t.Parallel()
	i := oidctest.Start(t)
	j := jwtOf(t, i.URL)
	old := i.Token(audience, "alice", nil)
	_, err := j.Authenticate(t.Context(), bearer(old))
	require.NoError(t, err)
	i.Rotate()
	_, err = j.Authenticate(t.Context(), bearer(i.Token(audience, "alice", nil)))
	require.NoError(t, err)
	requireRefused(t, j, bearer(old), "the issuer took its key back")
}

func TestTokensWaitForAnIssuerThatIsAway(t *testing.T) {
	t.Parallel()
	i := oidctest.Start(t)
	i.SetAway(true)
	j := jwtOf(t, i.URL) // starts all the same
	var away *auth.IssuerError
	for range 20 {
		_, err := j.Authenticate(t.Context(), bearer(i.Token(audience, "alice", nil)))
		require.ErrorAs(t, err, &away)
		require.Positive(t, away.RetryAfter)
	}
	require.LessOrEqual(t, i.Requests(), 3, "an issuer that is away is not asked for each token")

	i = oidctest.Start(t)
	j = jwtOf(t, i.URL)
	token := i.Token(audience, "alice", nil)
	_, err := j.Authenticate(t.Context(), bearer(token))
	require.NoError(t, err)
	i.SetAway(true)
	_, err = j.Authenticate(t.Context(), bearer(token))
	require.NoError(t, err, "known keys count on")
	i.Rotate()
	_, err = j.Authenticate(t.Context(), bearer(i.Token(audience, "alice", nil)))
	require.ErrorAs(t, err, &away, "it cannot tell")
}

func TestInventedTokensDoNotHammerTheIssuer(t *testing.T) {
	t.Parallel()
	i := oidctest.Start(t)
	j := jwtOf(t, i.URL)
	strange, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	text, err := json.Marshal(i.Claims(audience, "alice", nil))
	require.NoError(t, err)
	var all sync.WaitGroup
	for n := range 100 {
		token := signed(t, jose.RS256, strange, map[jose.HeaderKey]any{"kid": fmt.Sprint("invented", n)}, string(text))
		all.Go(func() {
			if _, err := j.Authenticate(t.Context(), bearer(token)); err == nil {
				t.Error("an invented token counts")
			}
		})
	}
	all.Wait()
	require.LessOrEqual(t, i.Requests(), 4, "the metadata, and a burst of three reads of the keys")
	_, err = j.Authenticate(t.Context(), bearer(i.Token(audience, "alice", nil)))
	require.NoError(t, err)
}

// issuerOf is an issuer of one transport, for tests in which time is not real.
type issuerOf func(r *http.Request) (status int, body string)

func (f issuerOf) RoundTrip(r *http.Request) (*http.Response, error) {
	status, body := f(r)
	if status == 0 {
		return nil, errors.New("connection refused")
	}
	return &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
}

func TestKeysAreReadAgainWithTime(t *testing.T) {
	t.Parallel()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	synctest.Test(t, func(t *testing.T) {
		var reads, withdrawn, away atomic.Int32
		j := jwtOf(t, "https://issuer.example")
		j.SetTransport(issuerOf(func(r *http.Request) (int, string) {
			if away.Load() > 0 {
				return 0, ""
			}
			if strings.Contains(r.URL.Path, "well-known") {
				return http.StatusOK, `{"issuer":"https://issuer.example","jwks_uri":"https://issuer.example/keys"}`
			}
			reads.Add(1)
			keys := []jose.JSONWebKey{{Key: &key.PublicKey, KeyID: "a", Use: "sig"}}
			if withdrawn.Load() > 0 {
				keys[0].KeyID = "b"
			}
			text, err := json.Marshal(map[string]any{"keys": keys})
			if err != nil {
				t.Error(err)
			}
			return http.StatusOK, string(text)
		}))
		ask := func() error {
			now := time.Now()
			text := fmt.Sprintf(`{"iss":"https://issuer.example","aud":"batchd","sub":"a","exp":%d}`, now.Add(time.Minute).Unix())
			_, err := j.Authenticate(context.Background(), bearer(signed(t, jose.RS256, key, map[jose.HeaderKey]any{"kid": "a"}, text)))
			synctest.Wait() // for a read in the background
			return err
		}
		require.NoError(t, ask())
		time.Sleep(4 * time.Minute)
		require.NoError(t, ask())
		require.EqualValues(t, 1, reads.Load())
		time.Sleep(2 * time.Minute)
		require.NoError(t, ask())
		require.EqualValues(t, 2, reads.Load(), "in the background")

		away.Store(1)
		time.Sleep(23 * time.Hour)
		require.NoError(t, ask(), "the issuer is away, and its keys count on")
		time.Sleep(2 * time.Hour)
		require.ErrorAs(t, ask(), new(*auth.IssuerError), "but not for ever")
		away.Store(0)
		time.Sleep(time.Minute)
		require.NoError(t, ask())

		withdrawn.Store(1)
		time.Sleep(6 * time.Minute)
		_ = ask() // reads the keys in the background
		require.ErrorAs(t, ask(), new(*dialect.UnauthorizedError), "the issuer took the key back")
	})
}

func TestAnIssuerThatCannotBeTrustedHasNoKeys(t *testing.T) {
	t.Parallel()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	text, err := json.Marshal(map[string]any{"keys": []jose.JSONWebKey{{Key: &key.PublicKey, KeyID: "a"}}})
	require.NoError(t, err)
	private, err := json.Marshal(map[string]any{"keys": []jose.JSONWebKey{{Key: key, KeyID: "a"}, {Key: []byte("0123456789abcdef0123456789abcdef"), KeyID: "a"}}})
	require.NoError(t, err)
	encryption, err := json.Marshal(map[string]any{"keys": []jose.JSONWebKey{{Key: &key.PublicKey, KeyID: "a", Use: "enc"}}})
	require.NoError(t, err)
	const good = `{"issuer":"https://issuer.example","jwks_uri":"https://issuer.example/keys"}`
	payload := fmt.Sprintf(`{"iss":"https://issuer.example","aud":"batchd","sub":"a","exp":%d}`, time.Now().Add(time.Hour).Unix())
	token := signed(t, jose.RS256, key, map[jose.HeaderKey]any{"kid": "a"}, payload)
	for about, row := range map[string]struct {
		metadata, keys string
		works          bool
	}{
		"good":                {good, string(text), true},
		"another issuer":      {`{"issuer":"https://evil.example","jwks_uri":"https://issuer.example/keys"}`, string(text), false},
		"keys without TLS":    {`{"issuer":"https://issuer.example","jwks_uri":"http://issuer.example/keys"}`, string(text), false},
		"keys in a file":      {`{"issuer":"https://issuer.example","jwks_uri":"file:///etc/passwd"}`, string(text), false},
		"no keys URL":         {`{"issuer":"https://issuer.example"}`, string(text), false},
		"metadata not JSON":   {`<html>`, string(text), false},
		"metadata too large":  {`{"x":"` + strings.Repeat("a", 2<<20) + `",` + good[1:], string(text), false},
		"keys not JSON":       {good, `<html>`, false},
		"no keys":             {good, `{"keys":[]}`, false},
		"private keys":        {good, string(private), false},
		"keys for encryption": {good, string(encryption), false},
		"unknown keys beside": {good, strings.Replace(string(text), `[`, `[{"kty":"MAGIC"},{"kty":"RSA","n":7},`, 1), true},
	} {
		j := jwtOf(t, "https://issuer.example")
		j.SetTransport(issuerOf(func(r *http.Request) (int, string) {
			if r.URL.Scheme != "https" { // a stranger answers
				return http.StatusOK, string(text)
			}
			if strings.Contains(r.URL.Path, "well-known") {
				return http.StatusOK, row.metadata
			}
			return http.StatusOK, row.keys
		}))
		_, err := j.Authenticate(t.Context(), bearer(token))
		if row.works {
			require.NoError(t, err, about)
		} else {
			require.ErrorAs(t, err, new(*auth.IssuerError), about)
		}
	}
}

func TestTheIssuerHasToBeHTTPSAndNamed(t *testing.T) {
	t.Parallel()
	for text, ok := range map[string]bool{
		"https://login.example.com": true, "https://login.example.com/realms/a/": true, "http://127.0.0.1:9000/oidc": true, "http://localhost:1": true, "http://[::1]:1": true,
		"http://login.example.com": false, "http://127.0.0.1.example.com": false, "login.example.com": false, "ftp://a.example": false, "https://": false, "https://:80": false,
		"https://user@a.example": false, "https://a.example?x": false, "https://a.example?": false, "https://a.example#x": false, "": false,
	} {
		var faults setting.Faults
		auth.Config{Modes: []auth.Mode{auth.ModeJWT}, JWT: auth.JWTConfig{Issuer: text, Audience: "a"}}.WithDefaults().Check(setting.NewChecker(&faults))
		require.Equal(t, ok, faults.Err() == nil, "%q: %v", text, faults.Err())
	}
	var faults setting.Faults
	auth.Config{Modes: []auth.Mode{auth.ModeJWT}, JWT: auth.JWTConfig{
		Issuer: "https://a.example", OwnerClaim: " sub", DefaultScopes: []auth.Scope{"root"}, Scopes: []auth.ScopeRule{{}, {Value: "x", Grant: []auth.Scope{"open"}}},
	}}.WithDefaults().Check(setting.NewChecker(&faults))
	for _, want := range []string{
		"jwt.audience: the mode jwt needs the audience", `jwt.owner_claim: cannot read " sub"`, `jwt.default_scopes[0]: unknown value "root"`,
		"jwt.scopes[0].value: the value is missing", "jwt.scopes[0].grant: the scopes are missing", `jwt.scopes[1].grant[0]: unknown value "open"`,
	} {
		require.ErrorContains(t, faults.Err(), want)
	}
}
