package auth

import (
	"crypto/sha256"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// exchangeRate and exchangeBurst bound how often all sign-ins ask the provider, in a second and at once, because a
	// visitor can invent codes. clientRate and clientBurst bound those from one address.
	exchangeRate  = 20
	exchangeBurst = 100
	clientRate    = 2
	clientBurst   = 10
	// clientWindow is how long addresses are told apart, and mostClients how many. All others together are one more.
	clientWindow = time.Minute
	mostClients  = 1000
)

// BusyError says that too many people sign in at this time.
type BusyError struct {
	// RetryAfter is when to try again.
	RetryAfter time.Duration
}

// Error implements error.
func (e *BusyError) Error() string { return "too many people sign in at this time: try again later" }

// exchanges decides which sign-ins may ask the provider about their code. It is safe for concurrent use.
type exchanges struct {
	mu  sync.Mutex
	all *rate.Limiter
	// clients are the limiters of addresses since begun.
	clients map[string]*rate.Limiter
	begun   time.Time
	// used are the sign-ins that asked since turned, and before those of the time before. Both are bounded, because
	// loginTime has so many exchanges only.
	used, before map[[sha256.Size]byte]struct{}
	turned       time.Time
}

func newExchanges() *exchanges {
	return &exchanges{all: rate.NewLimiter(exchangeRate, exchangeBurst)}
}

// take returns an error unless the sign-in with a secret, from an address, may ask the provider. Each may once.
func (e *exchanges) take(secret []byte, from string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	now, id := time.Now(), sha256.Sum256(secret)
	if now.Sub(e.turned) >= loginTime {
		if now.Sub(e.turned) >= 2*loginTime {
			e.used = nil
		}
		e.before, e.used, e.turned = e.used, make(map[[sha256.Size]byte]struct{}), now
	}
	for _, used := range []map[[sha256.Size]byte]struct{}{e.used, e.before} {
		if _, twice := used[id]; twice {
			return errLogin
		}
	}
	if !e.client(from, now).AllowN(now, 1) || !e.all.AllowN(now, 1) {
		return &BusyError{RetryAfter: time.Second}
	}
	e.used[id] = struct{}{}
	return nil
}

// client returns the limiter of an address.
func (e *exchanges) client(from string, now time.Time) *rate.Limiter {
	if e.clients == nil || now.Sub(e.begun) >= clientWindow {
		e.clients, e.begun = make(map[string]*rate.Limiter), now
	}
	if e.clients[from] == nil && len(e.clients) >= mostClients {
		from = "" // all others
	}
	if e.clients[from] == nil {
		e.clients[from] = rate.NewLimiter(clientRate, clientBurst)
	}
	return e.clients[from]
}
