//go:build unix

package dispatch

import (
	"net"
	"syscall"
)

// readable reports whether bytes have arrived on a connection that no reader has read. It
// reports false for a connection over TLS, where such bytes may belong to the connection itself.
func readable(conn net.Conn) (found bool) {
	sys, ok := conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sys.SyscallConn()
	if err != nil {
		return false
	}
	_ = raw.Control(func(fd uintptr) { // it fails only on a closed connection
		var first [1]byte
		n, _, err := syscall.Recvfrom(int(fd), first[:], syscall.MSG_PEEK)
		found = err == nil && n > 0 // the descriptor does not block
	})
	return found
}
