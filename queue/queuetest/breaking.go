package queuetest

import (
	"io"
	"net"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// BreakingProxy forwards connections to a server. It can break one of them before an answer.
type BreakingProxy struct {
	Addr string
	Next atomic.Bool // set to close the connection that has the next answer
}

// StartBreakingProxy starts a proxy to the server at an address. It stops with the test.
func StartBreakingProxy(t *testing.T, to string) *BreakingProxy {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	b := &BreakingProxy{Addr: l.Addr().String()}
	go func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			server, err := new(net.Dialer).DialContext(t.Context(), "tcp", to)
			if err != nil {
				_ = from.Close()
				continue
			}
			go func() {
				_, _ = io.Copy(server, from)
				_ = server.Close()
			}()
			go func() {
				defer from.Close()
				defer server.Close()
				answer := make([]byte, 64<<10)
				for {
					n, err := server.Read(answer)
					if err != nil || b.Next.CompareAndSwap(true, false) {
						return
					}
					if _, err := from.Write(answer[:n]); err != nil {
						return
					}
				}
			}()
		}
	}()
	return b
}
