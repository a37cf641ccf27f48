//go:build !linux

package main

import "syscall"

// dieWithParent asks for nothing: only Linux has it. A child of a program that
// was killed with a signal it cannot catch goes on.
func dieWithParent() *syscall.SysProcAttr { return nil }
