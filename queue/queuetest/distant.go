package queuetest

import (
	"strings"
	"testing"
	"time"

	"github.com/batchd/batchd/internal/redistest"
)

// OpenDistant opens a store whose Redis answers after a round trip of the given time.
func OpenDistant(t *testing.T, trip time.Duration) (*Bundle, *redistest.Distant) {
	t.Helper()
	upstream := strings.TrimSuffix(strings.TrimPrefix(servers.Take(t), "redis://"), "/0")
	d := redistest.StartDistant(t, upstream, trip)
	return Open(t, d.URL()), d
}
