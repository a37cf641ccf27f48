package queuetest

import (
	"strings"
	"testing"
	"time"

	"github.com/batchd/batchd/internal/redistest"
)

// Distantly returns a store whose Redis is a round trip away.
func Distantly(t *testing.T, trip time.Duration) (*Bundle, *redistest.Distant) {
	t.Helper()
	upstream := strings.TrimSuffix(strings.TrimPrefix(servers.Take(t), "redis://"), "/0")
	d := redistest.StartDistant(t, upstream, trip)
	return Open(t, d.URL()), d
}
