package dispatch

import (
	"context"
	"net/http"
	"time"
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
	// close closes the idle connections.
	close()
}

// readDeadliner is implemented by the bodies of answers that a carrier returns.
type readDeadliner interface {
	// hurry ends the body after a duration, even if the body is not complete.
	hurry(within time.Duration)
}
