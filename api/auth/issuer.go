package auth

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
	"golang.org/x/time/rate"

	"github.com/batchd/batchd/internal/certs"
)

const (
	// keysRefresh is the age at which the issuer's keys are read again in the background. A key that the issuer
	// takes back counts for that long.
	keysRefresh = 5 * time.Minute
	// keysHold is how long known keys count while the issuer is away.
	keysHold = 24 * time.Hour
	// metadataHold is how long the issuer's metadata count.
	metadataHold = time.Hour
	// readEvery and readBurst bound how often the issuer is asked, whatever tokens come.
	readEvery = 10 * time.Second
	readBurst = 3
	// readTimeout bounds one exchange with the issuer.
	readTimeout = 5 * time.Second
	// mostIssuerBytes and mostIssuerKeys bound what the issuer answers.
	mostIssuerBytes = 1 << 20
	mostIssuerKeys  = 100
)

// algorithms are those of signatures that count. All of them are asymmetric: with HS256 a public key would be
// the secret, and none is no signature.
var algorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
}

// IssuerError says that the issuer of tokens cannot be asked just now, so that a token cannot be checked.
type IssuerError struct {
	// RetryAfter is when to try again.
	RetryAfter time.Duration
	Err        error
}

// Error implements error.
func (e *IssuerError) Error() string { return fmt.Sprintf("the issuer of tokens is away: %v", e.Err) }

// Unwrap returns the cause.
func (e *IssuerError) Unwrap() error { return e.Err }

// issuer has the keys of an OpenID provider. It reads them when a token needs them, at most every readEvery on
// average, so that invented tokens cost the provider nothing. It implements [oidc.KeySet].
type issuer struct {
	url    string
	client *http.Client
	log    *slog.Logger
	allow  *rate.Limiter

	mu         sync.Mutex
	provider   *oidc.Provider // its metadata, or nil
	providerAt time.Time
	keys       []jose.JSONWebKey
	keysAt     time.Time
	err        error       // of the last read, or nil
	read       *issuerRead // the read under way, or nil
}

type issuerRead struct {
	done chan struct{}
	err  error
}

func newIssuer(cfg JWTConfig, log *slog.Logger) (*issuer, error) {
	tlsConfig := &tls.Config{MinVersion: tls.VersionTLS12}
	if cfg.CAFile != "" {
		var err error
		if tlsConfig.RootCAs, err = certs.Authorities(cfg.CAFile); err != nil {
			return nil, err
		}
	}
	// It uses no proxy of the environment, and keeps no connections, because it is used rarely.
	transport := &http.Transport{TLSClientConfig: tlsConfig, DisableKeepAlives: true, ForceAttemptHTTP2: true, MaxResponseHeaderBytes: 64 << 10}
	return &issuer{
		url: cfg.Issuer, log: log, allow: rate.NewLimiter(rate.Every(readEvery), readBurst),
		client: &http.Client{
			Transport: bounded{transport, isHTTPS(cfg.Issuer)}, Timeout: readTimeout,
			CheckRedirect: func(*http.Request, []*http.Request) error {
				return errors.New("the issuer redirects, which is not followed")
			},
		},
	}, nil
}

func isHTTPS(text string) bool {
	u, err := url.Parse(text)
	return err == nil && u.Scheme == "https"
}

// bounded bounds the bodies of answers. It refuses to leave TLS, also where the metadata of the issuer say so.
type bounded struct {
	next   http.RoundTripper
	secure bool
}

// RoundTrip implements [http.RoundTripper].
func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" && (b.secure || !isLoopback(r.URL.Hostname())) {
		return nil, errors.New("the issuer's metadata name a URL that is not https")
	}
	resp, err := b.next.RoundTrip(r)
	if err == nil {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, mostIssuerBytes), resp.Body}
	}
	return resp, err
}

// VerifySignature implements [oidc.KeySet]. It returns a [*IssuerError] if it cannot tell.
func (i *issuer) VerifySignature(ctx context.Context, token string) ([]byte, error) {
	signed, err := jose.ParseSignedCompact(token, algorithms)
	if err != nil {
		return nil, errSignature
	}
	keys, at := i.known()
	if payload := verifyBy(keys, signed); payload != nil {
		if time.Since(at) > keysRefresh {
			_, _ = i.start() //nolint:contextcheck // the keys are for later requests, too; an error shows when they are needed
		}
		return payload, nil
	}
	// Its key may be new, so the keys are read again, as far as their rate allows.
	read, err := i.start() //nolint:contextcheck // other requests wait for the same keys
	if err != nil {
		return nil, err
	}
	if read == nil {
		return nil, errUnknownKey
	}
	select {
	case <-read.done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if read.err != nil {
		return nil, &IssuerError{RetryAfter: readEvery, Err: read.err}
	}
	keys, _ = i.known()
	if payload := verifyBy(keys, signed); payload != nil {
		return payload, nil
	}
	return nil, errUnknownKey
}

// verifyBy returns the payload if one of the keys signed it, or nil.
func verifyBy(keys []jose.JSONWebKey, signed *jose.JSONWebSignature) []byte {
	header := signed.Signatures[0].Protected
	for n := range keys {
		key := &keys[n]
		if header.KeyID != "" && key.KeyID != header.KeyID || key.Algorithm != "" && key.Algorithm != header.Algorithm {
			continue
		}
		if payload, err := signed.Verify(key); err == nil {
			return payload
		}
	}
	return nil
}

// known returns the keys that count, and when they were read.
func (i *issuer) known() ([]jose.JSONWebKey, time.Time) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if time.Since(i.keysAt) > keysHold {
		return nil, time.Time{}
	}
	return i.keys, i.keysAt
}

// start reads the keys again, or returns the read under way. If it is too early for another read, it returns
// nil, and an error if the last read failed.
func (i *issuer) start() (*issuerRead, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.read != nil {
		return i.read, nil
	}
	if !i.allow.Allow() {
		if i.err != nil {
			return nil, &IssuerError{RetryAfter: readEvery, Err: i.err}
		}
		return nil, nil
	}
	read := &issuerRead{done: make(chan struct{})}
	i.read = read
	go func() {
		// It belongs to no request: all that wait for it share it.
		ctx, cancel := context.WithTimeout(context.Background(), 2*readTimeout)
		defer cancel()
		keys, err := i.load(ctx)
		if err != nil {
			i.log.WarnContext(ctx, "keys of the issuer not read", "issuer", i.url, "error", err)
		}
		i.mu.Lock()
		defer i.mu.Unlock()
		if err == nil {
			i.keys, i.keysAt = keys, time.Now()
		} else {
			i.provider = nil // it may have moved its keys
		}
		i.err, read.err, i.read = err, err, nil
		close(read.done)
	}()
	return read, nil
}

// metadata returns what the issuer says about itself.
func (i *issuer) metadata(ctx context.Context) (*oidc.Provider, error) {
	i.mu.Lock()
	provider, at := i.provider, i.providerAt
	i.mu.Unlock()
	if provider != nil && time.Since(at) < metadataHold {
		return provider, nil
	}
	provider, err := oidc.NewProvider(oidc.ClientContext(ctx, i.client), i.url)
	if err != nil {
		return nil, fmt.Errorf("read the metadata of the issuer: %w", clipped{err})
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.provider, i.providerAt = provider, time.Now()
	return provider, nil
}

// load reads the keys of the issuer.
func (i *issuer) load(ctx context.Context) ([]jose.JSONWebKey, error) {
	provider, err := i.metadata(ctx)
	if err != nil {
		return nil, err
	}
	var at struct {
		URL string `json:"jwks_uri"`
	}
	if err := provider.Claims(&at); err != nil || at.URL == "" {
		return nil, errors.New("the metadata of the issuer have no jwks_uri")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.URL, http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("read the keys of the issuer: %w", err)
	}
	resp, err := i.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("read the keys of the issuer: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("read the keys of the issuer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("read the keys of the issuer: it answered %d", resp.StatusCode)
	}
	return parseKeySet(body)
}

// parseKeySet returns the keys of a key set that can verify signatures. It leaves out those that it cannot read,
// as RFC 7517 §5 asks for.
func parseKeySet(body []byte) ([]jose.JSONWebKey, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(body, &set); err != nil {
		return nil, errors.New("the key set of the issuer is not valid JSON")
	}
	var keys []jose.JSONWebKey
	for _, text := range set.Keys[:min(len(set.Keys), mostIssuerKeys)] {
		var key jose.JSONWebKey
		if err := json.Unmarshal(text, &key); err != nil || !key.Valid() || !key.IsPublic() || key.Use != "" && key.Use != "sig" {
			continue
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, errors.New("the key set of the issuer has no public key for signatures")
	}
	return keys, nil
}

// clipped is an error with a short text: go-oidc repeats whole answers.
type clipped struct{ error }

// Error implements error.
func (c clipped) Error() string {
	const most = 300
	text := c.error.Error()
	if len(text) > most {
		text = text[:most] + "…"
	}
	return text
}

// Unwrap returns the whole error.
func (c clipped) Unwrap() error { return c.error }
