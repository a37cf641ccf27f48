//go:build !unix

package dispatch

import (
	"context"
	"net"
	"net/url"

	"github.com/batchd/batchd/internal/batch"
)

// isPlain reports false: plainCarrier uses system calls that only Unix has.
func isPlain(*url.URL, *batch.Target) bool { return false }

func newPlainCarrier(string, int, func(ctx context.Context, network, addr string) (net.Conn, error)) carrier {
	return nil
}
