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

func newPlainCarrier(string, *batch.Target, *suspicion, func(ctx context.Context, network, addr string) (net.Conn, error)) carrier {
	return nil
}

// readable reports false: it is checked only where the system can tell without reading.
func readable(net.Conn) bool { return false }
