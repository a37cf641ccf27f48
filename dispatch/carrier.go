package dispatch

import (
	"context"
	"net/http"
	"os"
	"time"

	"github.com/batchd/batchd/internal/batch"
)

// carrier sends requests to one target and reads the heads of its answers. There are two:
// plainCarrier for http targets, and standardCarrier, over net/http's transport, for all
// others and for those whose setting http_client is standard. Their requests have the
// same bytes, and they refuse the same answers.
type carrier interface {
	// roundTrip sends the request, with the body of the exchange's action, and returns
	// once it has the headers of the answer. The caller closes the body. The carrier
	// reports its progress to the exchange, and ends it with the context or at the
	// exchange's deadline.
	roundTrip(ctx context.Context, x *exchange, req *http.Request) (*http.Response, error)
	// drop closes the idle connections. Those in use serve no other exchange.
	drop()
	// close closes the idle connections. Later exchanges keep none.
	close()
}

// slots bounds the exchanges with a target that are under way.
type slots chan struct{}

// enter waits for a slot until the exchange's deadline.
func (s slots) enter(ctx context.Context, x *exchange) error {
	select {
	case s <- struct{}{}:
		return nil
	default:
	}
	timer := time.NewTimer(time.Until(x.until))
	defer timer.Stop()
	select {
	case s <- struct{}{}:
		return nil
	case <-timer.C:
		return os.ErrDeadlineExceeded
	case <-ctx.Done():
		return context.Cause(ctx) //nolint:wrapcheck // it is not shown
	}
}

func (s slots) leave() { <-s }

// keyOf returns the key of the connections that may serve an exchange: with equal keys,
// exchanges may share them. Alone: a connection serves this exchange only.
func keyOf(mode string, suspected *suspicion, x *exchange) (key string, alone bool) {
	switch {
	case mode == batch.ConnectionsNone, suspected.active():
		return "", true
	case mode == batch.ConnectionsShared:
		return "", false
	}
	return x.owner, false
}

// readDeadliner is implemented by the bodies of answers that a carrier returns.
type readDeadliner interface {
	// hurry ends the body after a duration, even if the body is not complete.
	hurry(within time.Duration)
}
