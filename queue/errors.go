package queue

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/batch"
)

// retryAfter is what callers are told while Redis cannot serve.
const retryAfter = 2 * time.Second

// refusals are the first words of the errors by which a Redis server says that
// it cannot serve just now.
var refusals = []string{
	"LOADING", "READONLY", "OOM", "CLUSTERDOWN", "MASTERDOWN", "TRYAGAIN", "NOREPLICAS", "MISCONF", "BUSY", "UNBLOCKED",
}

// mapError turns what go-redis says into what the domain knows. The caller's
// own cancellation stays what it is.
func mapError(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil && !errors.Is(context.Cause(ctx), errSlow) {
		return context.Cause(ctx)
	}
	if unavailable(err) {
		return &batch.UnavailableError{RetryAfter: retryAfter, Err: err}
	}
	return err
}

func unavailable(err error) bool {
	var netErr net.Error
	switch {
	case errors.Is(err, errSlow), errors.Is(err, context.DeadlineExceeded), errors.Is(err, io.EOF),
		errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed),
		errors.Is(err, redis.ErrPoolTimeout), errors.Is(err, redis.ErrPoolExhausted), errors.As(err, &netErr):
		return true
	}
	message := err.Error()
	for _, word := range refusals {
		if redis.HasErrorPrefix(err, word) || strings.Contains(message, ": "+word+" ") {
			return true
		}
	}
	for _, words := range []string{"dial tcp", "i/o timeout", "connection refused", "connection reset"} {
		if strings.Contains(message, words) { // asynq keeps the words of an error, not the error
			return true
		}
	}
	return strings.Contains(message, "all sentinels specified in configuration are unreachable") ||
		strings.Contains(message, "connection pool: failed to dial")
}
