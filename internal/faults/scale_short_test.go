//go:build !faults

package faults

// long: the scenarios run in their long form.
const long = false
