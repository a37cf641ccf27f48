//go:build faults

package faults

// long says that the scenarios run in their long form.
const long = true
