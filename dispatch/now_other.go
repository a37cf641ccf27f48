//go:build unix && !linux

package dispatch

import "syscall"

func readNow(fd uintptr, p []byte) (int, error)  { return again(syscall.Read, fd, p) }
func writeNow(fd uintptr, p []byte) (int, error) { return again(syscall.Write, fd, p) }

// again makes a system call that signals may interrupt.
func again(call func(fd int, p []byte) (int, error), fd uintptr, p []byte) (int, error) {
	for {
		n, err := call(int(fd), p)
		if err != syscall.EINTR { //nolint:errorlint // errno, as it comes
			return n, err
		}
	}
}
