package batch

import (
	"strings"
	"time"
)

// verifyTimeout bounds one request about a credential.
const verifyTimeout = 10 * time.Second

// ForVerify returns the target as a dispatcher needs it for up to most requests about credentials at one time, beside
// the dispatcher for actions: they take no connections from actions. Each has a connection of its own, because the next
// one is about another credential. Only the status of an answer matters.
func (t Target) ForVerify(most int) Target {
	t.Concurrency = most
	t.Connections = ConnectionsNone
	t.Timeout = min(t.Timeout, verifyTimeout)
	t.MaxResponseBody = 1
	t.IdempotencyKeyHeader = ""
	return t
}

// validateVerify adds the faults of the request about credentials, at /verify.
func (c *Call) validateVerify(add func(pointer, format string, args ...any)) {
	switch method := c.Method; method {
	case "GET", "HEAD":
	case "":
		add("/verify/method", "the method is missing: expected GET or HEAD")
	default:
		add("/verify/method", "the method is %q: expected GET or HEAD, because the request must change nothing, and its answer must depend on the credential", clip(method))
	}
	if strings.Contains(c.Path, "?") {
		add("/verify/path", "the path holds a query: name a path that needs none")
	} else if err := ValidatePath(c.Path); err != nil {
		add("/verify/path", "%v", err)
	}
}
