package queuetest

import (
	"testing"

	"github.com/batchd/batchd/internal/redistest"
)

// NoRoom is Redis's reply to a write while it has no memory left.
const NoRoom = "OOM command not allowed when used memory > 'maxmemory'."

// BehindProxy opens a store on a Redis behind a proxy.
func BehindProxy(t *testing.T) (*Bundle, *redistest.Proxy) {
	t.Helper()
	p := redistest.StartProxy(t, redistest.Start(t).Addr)
	return Open(t, p.URL()), p
}
