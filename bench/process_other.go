//go:build !linux

package main

import "syscall"

// dieWithParent does nothing, because only Linux has this feature. If this program is
// killed with a signal that it cannot catch, its children continue.
func dieWithParent() *syscall.SysProcAttr { return nil }
