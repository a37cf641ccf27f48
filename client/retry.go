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

// Transient reports whether err is temporary, so that the same call can be repeated,
// and how long the server asked to wait before that, or 0. It is true if the server
// cannot be reached, broke the connection, or answered 429, 502, 503 or 504. It is also
// true for 409 with Retry-After: then another upload with the same idempotency key is
// under way.
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
		net.ErrClosed, // net/http's error for a body that it was writing when the server broke the connection
	} {
		if errors.Is(err, passing) {
			return 0, true
		}
	}
	if strings.HasSuffix(err.Error(), brokenConnection) {
		return 0, true
	}
	// The answer ended within a header line.
	if _, found := errors.AsType[textproto.ProtocolError](err); found {
		return 0, true
	}
	timeout, found := errors.AsType[net.Error](err)
	return 0, found && timeout.Timeout()
}

// brokenConnection is net/http's error if the server closed a kept connection while a
// call was about to use it. The error has no variable of its own.
const brokenConnection = "server closed idle connection"

// firstPause and longestPause bound the pauses between two calls if the server does not
// ask for one.
const (
	firstPause   = 200 * time.Millisecond
	longestPause = 5 * time.Second
)

// retryTransient repeats a call after transient errors, until the next call would come
// later than retryFor allows. It returns the last error.
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

// sleep reports whether the duration passed before the context ended.
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
