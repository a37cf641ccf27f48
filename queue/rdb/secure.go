package rdb

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"sync"
	"time"

	"github.com/batchd/batchd/internal/certs"
)

const (
	// secureScheme begins the schemes of URLs that ask for TLS.
	secureScheme = "rediss"
	// faultEvery is how often failed handshakes with one address are logged.
	faultEvery = time.Minute
)

// keepAlive is what go-redis sets for the connections that it opens itself.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 5 * time.Second, Count: 3}

// Secure opens connections with TLS: to a server, to sentinels, and to the nodes of a cluster. go-redis's own dialer
// would keep the certificates of the start.
type Secure struct {
	files   *certs.ClientFiles // nil for the authorities of the system
	timeout time.Duration
	log     *slog.Logger

	mu     sync.Mutex
	faults map[string]time.Time // when one was logged, by the address
	last   error                // of the latest handshake
}

// NewSecure returns a Secure, which opens a connection within the timeout. Each handshake uses the files as they were
// read last. Nil files stand for the authorities of the system, and no certificate of the client; a nil logger
// discards.
func NewSecure(files *certs.ClientFiles, timeout time.Duration, log *slog.Logger) *Secure {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Secure{files: files, timeout: timeout, log: log, faults: make(map[string]time.Time)}
}

// Dial opens a connection to host:port.
func (s *Secure) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout) // go-redis bounds all dials but those for subscriptions
	defer cancel()
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.files != nil {
		config = s.files.Config()
	}
	if config.ServerName == "" {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, fmt.Errorf("dial redis: %w", err)
		}
		config = config.Clone()
		config.ServerName = host
	}
	plain, err := (&net.Dialer{KeepAliveConfig: keepAlive}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(plain, config)
	err = conn.HandshakeContext(ctx)
	s.setLast(err)
	if err != nil {
		_ = plain.Close() // the handshake has failed already
		s.note(ctx, address, err)
		// An error of the network means that Redis is away. A refused certificate has no such type.
		return nil, &net.OpError{Op: "dial", Net: network, Err: fmt.Errorf("%s: TLS handshake: %w", address, err)}
	}
	return conn, nil
}

func (s *Secure) setLast(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = err
}

// slow is [ErrSlow] with the error of the latest handshake: go-redis repeats a handshake that fails until time runs
// out, and returns only that.
type slow struct{ secure *Secure }

// Error implements error.
func (s *slow) Error() string { return ErrSlow.Error() }

// Is reports whether the target is [ErrSlow].
func (s *slow) Is(target error) bool { return target == ErrSlow }

// explain adds the error of the latest handshake to an error, if that handshake failed.
func (s *slow) explain(err error) error {
	s.secure.mu.Lock()
	defer s.secure.mu.Unlock()
	if s.secure.last == nil {
		return err
	}
	return fmt.Errorf("%w: the TLS handshake failed: %w", err, s.secure.last)
}

// note logs a failed handshake, for each address at most once a minute: go-redis repeats it, and with sentinels it
// reports only that it found no master.
func (s *Secure) note(ctx context.Context, address string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(s.faults, func(_ string, at time.Time) bool { return now.Sub(at) >= faultEvery })
	if _, ok := s.faults[address]; !ok {
		s.faults[address] = now
		s.log.WarnContext(ctx, "a TLS handshake with redis failed", "address", address, "error", err)
	}
}
