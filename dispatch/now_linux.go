package dispatch

import (
	"syscall"
	"unsafe"
)

// readNow and writeNow make a system call on a file that does not block. The
// scheduler is not told: it would take the processor away from who is in the call
// for longer than a moment, and wake another thread for it, though the call waits
// for nothing.

func readNow(fd uintptr, p []byte) (int, error)  { return now(syscall.SYS_READ, fd, p) }
func writeNow(fd uintptr, p []byte) (int, error) { return now(syscall.SYS_WRITE, fd, p) }

func now(call, fd uintptr, p []byte) (int, error) {
	for {
		n, _, errno := syscall.RawSyscall(call, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p))) //nolint:gosec // p lives until the call returns
		switch errno {
		case 0:
			return int(n), nil
		case syscall.EINTR:
		default:
			return -1, errno
		}
	}
}
