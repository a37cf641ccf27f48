// Package oidctest has an OpenID provider for tests, which can rotate its key and go away.
package oidctest

import (
	"crypto/rand"
	"crypto/rsa"
	"maps"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/oauth2-proxy/mockoidc"
	"github.com/stretchr/testify/require"
)

// Issuer is an OpenID provider on a loopback address. It is safe for concurrent use.
type Issuer struct {
	// URL is the issuer, ClientID the audience of ID tokens.
	URL, ClientID, ClientSecret string

	t    *testing.T
	mock *mockoidc.MockOIDC

	mu       sync.Mutex
	requests int
	away     bool
}

// Start starts a provider, which ends with the test.
func Start(t *testing.T) *Issuer {
	t.Helper()
	mock, err := mockoidc.NewServer(nil)
	require.NoError(t, err)
	i := &Issuer{t: t, mock: mock, ClientID: mock.ClientID, ClientSecret: mock.ClientSecret}
	require.NoError(t, mock.AddMiddleware(i.middleware))
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, mock.Start(ln, nil))
	t.Cleanup(func() { require.NoError(t, mock.Shutdown()) })
	i.URL = mock.Issuer()
	return i
}

func (i *Issuer) middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i.mu.Lock() // so that the provider's fields can change
		defer i.mu.Unlock()
		i.requests++
		if i.away {
			panic(http.ErrAbortHandler)
		}
		next.ServeHTTP(w, r)
	})
}

// Requests returns how many requests the provider got.
func (i *Issuer) Requests() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.requests
}

// SetAway lets the provider close all connections without an answer, or answer again.
func (i *Issuer) SetAway(away bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.away = away
}

// Rotate replaces the provider's key.
func (i *Issuer) Rotate() {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(i.t, err)
	pair, err := mockoidc.NewKeypair(key)
	require.NoError(i.t, err)
	i.mu.Lock()
	defer i.mu.Unlock()
	i.mock.Keypair = pair
}

// Key returns the provider's private key and the id of it.
func (i *Issuer) Key() (key *rsa.PrivateKey, id string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	id, err := i.mock.Keypair.KeyID()
	require.NoError(i.t, err)
	return i.mock.Keypair.PrivateKey, id
}

// SignIn makes the next sign-in at the provider that of a user.
func (i *Issuer) SignIn(user *mockoidc.MockUser) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.mock.QueueUser(user)
}

// Claims returns the claims of a valid token for an audience, and others in addition. Nil removes a claim.
func (i *Issuer) Claims(audience, subject string, others map[string]any) map[string]any {
	now := time.Now()
	claims := map[string]any{"iss": i.URL, "aud": audience, "sub": subject, "iat": now.Unix(), "exp": now.Add(time.Hour).Unix(), "scope": "submit read cancel"}
	maps.Copy(claims, others)
	maps.DeleteFunc(claims, func(_ string, value any) bool { return value == nil })
	return claims
}

// Token returns a token with the claims of [Issuer.Claims].
func (i *Issuer) Token(audience, subject string, others map[string]any) string {
	i.mu.Lock()
	defer i.mu.Unlock()
	token, err := i.mock.Keypair.SignJWT(jwt.MapClaims(i.Claims(audience, subject, others)))
	require.NoError(i.t, err)
	return token
}
