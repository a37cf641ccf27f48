package client

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"strings"
	"syscall"
	"time"
)

// Transient reports whether err may pass by itself, so that the same call can be
// made again, and how long the server asked to wait before that, 0 where it did
// not say. It is true for a server that cannot be reached, that broke the
// connection, that answered 429, 502, 503 or 504, or 409 with Retry-After, by
// which it says that another upload under the same idempotency key is in the way.
func Transient(err error) (after time.Duration, ok bool) {
	if p, found := errors.AsType[*Problem](err); found {
		switch p.Status {
		case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			return p.RetryAfter, true
		case http.StatusConflict:
			return p.RetryAfter, p.RetryAfter > 0
		}
		return 0, false
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return 0, false
	}
	if dns, found := errors.AsType[*net.DNSError](err); found {
		return 0, dns.IsTemporary || dns.IsTimeout
	}
	for _, passing := range []error{
		syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EPIPE, io.EOF, io.ErrUnexpectedEOF,
		net.ErrClosed, // as net/http answers a body that it was writing when the server broke the connection
	} {
		if errors.Is(err, passing) {
			return 0, true
		}
	}
	if strings.HasSuffix(err.Error(), brokenConnection) {
		return 0, true
	}
	// An answer that was cut off within a header line.
	if _, found := errors.AsType[textproto.ProtocolError](err); found {
		return 0, true
	}
	timeout, found := errors.AsType[net.Error](err)
	return 0, found && timeout.Timeout()
}

// brokenConnection is what net/http says of a kept connection whose server went
// away while it was taken for a call. The error has no name of its own.
const brokenConnection = "server closed idle connection"

// firstPause and longestPause bound the pauses between two calls where the
// server does not name one.
const (
	firstPause   = 200 * time.Millisecond
	longestPause = 5 * time.Second
)

// retryTransient makes a call until it does not end with a transient error, or until
// the next one would come later than retryFor allows. It returns the last error.
func retryTransient[T any](ctx context.Context, retryFor time.Duration, call func() (T, error)) (T, error) {
	giveUp := time.Now().Add(retryFor)
	pause := firstPause
	for {
		value, err := call()
		if err == nil {
			return value, nil
		}
		after, ok := Transient(err)
		if !ok {
			return value, err
		}
		if after == 0 {
			after = pause
			pause = min(2*pause, longestPause)
		}
		if time.Now().Add(after).After(giveUp) || !sleep(ctx, after) {
			return value, err
		}
	}
}

// sleep reports whether the time passed before the context ended.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
