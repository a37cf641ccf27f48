package auth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/batchd/batchd/api/dialect"
	"github.com/batchd/batchd/internal/apikey"
	"github.com/batchd/batchd/internal/batch"
)

// sessionCheck is how often a long request asks whether its session still counts.
const sessionCheck = 2 * time.Second

var errNoSession = &dialect.UnauthorizedError{Detail: "the session has ended: sign in again"}

// Session is what a principal that signed in has in addition.
type Session struct {
	// SignedIn is when the session began, and Ends when it ends at the latest.
	SignedIn, Ends time.Time
	// Idle is how long it lasts without a request.
	Idle time.Duration
}

// sessionRecord is a session as it is stored. A session of a key has the hash of the key's secret alone: what the
// key may do is looked up for each request. So a session ends with its key, or with the secret that it began with.
type sessionRecord struct {
	Created time.Time `json:"created"`
	Secret  string    `json:"secret,omitempty"`
	// The others are of a session that began at an OpenID provider.
	Issuer  string   `json:"issuer,omitempty"`
	Name    string   `json:"name,omitempty"`
	Owner   string   `json:"owner,omitempty"`
	Scopes  Scopes   `json:"scopes,omitempty"`
	Targets []string `json:"targets"`
}

// Sessions is the authenticator of people who signed in with a browser. The cookie has a random id; the session
// itself is in the store, under the hash of the id.
type Sessions struct {
	cfg   SessionConfig
	store batch.SessionStore
	keys  *Keys // nil without the mode keys
	jwt   *JWT  // nil without the mode jwt
	// guard refuses a request of another site.
	guard func(*http.Request) error

	idTokens  *oidc.IDTokenVerifier
	exchanges *exchanges
}

// NewSessions returns an authenticator by sessions, which begin with a key or a token of the issuer; either can be
// nil. Guard refuses a request that a page of another site made.
func NewSessions(cfg SessionConfig, store batch.SessionStore, keys *Keys, jwt *JWT, guard func(*http.Request) error) *Sessions {
	s := &Sessions{cfg: cfg.WithDefaults(), store: store, keys: keys, jwt: jwt, guard: guard, exchanges: newExchanges()}
	if jwt != nil {
		s.idTokens = verifier(jwt.issuer, cfg.ClientID)
	}
	return s
}

// Authenticate implements [Authenticator].
func (s *Sessions) Authenticate(ctx context.Context, r *http.Request) (*Principal, error) {
	cookie, err := s.takeCookie(r)
	if cookie == "" || err != nil {
		return nil, err
	}
	if err := s.guard(r); err != nil {
		return nil, err
	}
	return s.find(ctx, cookie, true)
}

// place returns where the session of a cookie is stored.
func place(cookie string) (group, id string, ok bool) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(cookie)
	if err != nil || len(raw) != groupBytes+idBytes {
		return "", "", false
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(raw[:groupBytes]), hex.EncodeToString(sum[:]), true
}

const groupBytes, idBytes = 8, 32

// find returns the principal of a session. With use, the session counts as used now.
func (s *Sessions) find(ctx context.Context, cookie string, use bool) (*Principal, error) {
	group, id, ok := place(cookie)
	if !ok {
		return nil, errNoSession
	}
	value, err := s.store.Session(ctx, group, id, s.cfg.Idle, use)
	if errors.Is(err, batch.ErrNoSession) {
		return nil, errNoSession
	}
	if err != nil {
		return nil, err
	}
	var record sessionRecord
	if err := json.Unmarshal(value, &record); err != nil {
		return nil, fmt.Errorf("read the session: %w", err)
	}
	p, err := s.principal(ctx, &record)
	if err != nil {
		return nil, err
	}
	p.Session = &Session{SignedIn: record.Created, Ends: record.Created.Add(s.cfg.Lifetime), Idle: s.cfg.Idle}
	if p.Expires.IsZero() || p.Session.Ends.Before(p.Expires) {
		p.Expires = p.Session.Ends
	}
	if !time.Now().Before(p.Expires) {
		return nil, errNoSession
	}
	p.Forward = true // an Authorization beside the cookie is meant for the target
	p.Check = s.checker(cookie)
	return p, nil
}

func (s *Sessions) principal(ctx context.Context, record *sessionRecord) (*Principal, error) {
	if record.Secret != "" {
		var hash [sha256.Size]byte
		if n, err := hex.Decode(hash[:], []byte(record.Secret)); err != nil || n != len(hash) || s.keys == nil {
			return nil, errNoSession
		}
		key, err := s.keys.find(ctx, hash)
		if errors.As(err, new(*dialect.UnauthorizedError)) {
			return nil, errNoSession
		}
		if err != nil {
			return nil, err
		}
		return s.keys.principal(key, hash), nil
	}
	if s.jwt == nil || record.Issuer != s.jwt.cfg.Issuer || s.cfg.ClientID == "" {
		return nil, errNoSession // the settings have changed
	}
	return &Principal{Mode: ModeJWT, Name: record.Name, Owner: record.Owner, Scopes: record.Scopes, Targets: record.Targets}, nil
}

// checker returns the check of a long request. It costs an exchange from time to time, and does not count as use.
func (s *Sessions) checker(cookie string) func(context.Context) error {
	var mu sync.Mutex
	last := time.Now()
	var ended error
	return func(ctx context.Context) error {
		mu.Lock()
		defer mu.Unlock()
		if ended != nil || time.Since(last) < sessionCheck {
			return ended
		}
		_, err := s.find(ctx, cookie, false)
		if err == nil || errors.As(err, new(*dialect.UnauthorizedError)) {
			last, ended = time.Now(), err
		}
		return err
	}
}

// SignIn is the beginning of a session.
type SignIn struct {
	// Cookie is the value of the cookie.
	Cookie    string
	Principal *Principal
	// ReturnTo is the path where the browser goes on, after a sign-in at the provider.
	ReturnTo string
}

// SignInByKey starts a session by a key.
func (s *Sessions) SignInByKey(ctx context.Context, text string) (*SignIn, error) {
	if s.keys == nil {
		return nil, errNoSession
	}
	if !apikey.Valid(text) {
		return nil, errInvalidKey
	}
	hash := apikey.Hash(text)
	key, err := s.keys.find(ctx, hash)
	if err != nil {
		return nil, err
	}
	value, err := s.begin(ctx, KeyOwner(key.Owner), &sessionRecord{Secret: hex.EncodeToString(hash[:])})
	return &SignIn{Cookie: value, Principal: s.keys.principal(key, hash)}, err
}

// begin stores a new session, with a new id, and returns the cookie's value.
func (s *Sessions) begin(ctx context.Context, owner string, record *sessionRecord) (string, error) {
	record.Created = time.Now().UTC().Truncate(time.Millisecond)
	value, err := json.Marshal(record) //nolint:gosec // the secret is a hash, and the record is sealed
	if err != nil {
		return "", fmt.Errorf("write the session: %w", err)
	}
	raw := make([]byte, groupBytes+idBytes)
	sum := sha256.Sum256([]byte(owner))
	copy(raw, sum[:groupBytes])
	_, _ = rand.Read(raw[groupBytes:]) // never fails: crypto/rand ends the program instead
	cookie := base64.RawURLEncoding.EncodeToString(raw)
	group, id, _ := place(cookie)
	return cookie, s.store.PutSession(ctx, group, id, value, s.cfg.Lifetime)
}

// End ends the session of a request, and returns whose it was, or nil if that is not known. It takes the cookie out of the request.
func (s *Sessions) End(ctx context.Context, r *http.Request) (*Principal, error) {
	cookie, err := s.takeCookie(r)
	if err != nil {
		return nil, err
	}
	group, id, ok := place(cookie)
	if !ok {
		return nil, nil //nolint:nilnil // there was no session
	}
	p, _ := s.find(ctx, cookie, false) // whose it was is for the audit log: a session that cannot be read ends, too
	return p, s.store.EndSession(ctx, group, id)
}
