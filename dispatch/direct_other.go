//go:build !unix

package dispatch

import (
	"context"
	"net"
	"net/url"

	"github.com/batchd/batchd/internal/batch"
)

// directly reports false: what newDirect makes needs the system calls of Unix.
func directly(*url.URL, *batch.Target) bool { return false }

func newDirect(string, int, func(ctx context.Context, network, addr string) (net.Conn, error)) carrier {
	return nil
}
