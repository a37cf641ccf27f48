package dispatch

import (
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// suspectFor is how long a target gets one request per connection after unexpected bytes.
const suspectFor = time.Minute

// suspicion remembers whether a target has lately sent bytes that no request asked for. Such
// bytes could be taken for the answer to a later request on their connection (RFC 9112 §9.2),
// so for a while no connection to the target serves a second request. A nil suspicion
// reports nothing and suspects nothing.
type suspicion struct {
	target  string
	log     *slog.Logger
	counter prometheus.Counter
	drop    func()        // closes the target's idle connections
	lasts   time.Duration // suspectFor, except in tests
	until   atomic.Int64  // ns since the process started
}

// processStart is a time with a monotonic clock.
var processStart = time.Now()

// active reports whether the target gets one request per connection at present.
func (s *suspicion) active() bool {
	until := int64(0)
	if s != nil {
		until = s.until.Load()
	}
	return until > 0 && int64(time.Since(processStart)) < until
}

// report records that a connection was closed because of unexpected bytes.
func (s *suspicion) report(what string) {
	if s == nil {
		return
	}
	s.counter.Inc()
	now := int64(time.Since(processStart))
	before := s.until.Swap(now + int64(s.lasts))
	s.drop()
	if now >= before {
		s.log.Warn("target sent unexpected bytes: their connection is closed, and each request gets a connection of its own for a while",
			slog.String("target", s.target), slog.String("what", what), slog.Duration("for", s.lasts))
	}
}

// The kinds of unexpected bytes, for the log.
const (
	bytesBefore  = "bytes before a request was written"
	bytesBeyond  = "bytes beyond the end of an answer"
	bytesTooSoon = "an answer other than an error before the request was written to its end"
)

// newUnexpected returns the counter of connections with unexpected bytes. The dispatchers of a process share it.
func newUnexpected(r prometheus.Registerer) (*prometheus.CounterVec, error) {
	counter := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "batchd_unexpected_bytes_total",
		Help: "Connections closed because bytes arrived on them that no request asked for, or an answer came before its request was written, by target.",
	}, []string{"target"})
	if r == nil {
		return counter, nil
	}
	err := r.Register(counter)
	if other, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		if shared, ok := other.ExistingCollector.(*prometheus.CounterVec); ok {
			return shared, nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("register a metric: %w", err)
	}
	return counter, nil
}
