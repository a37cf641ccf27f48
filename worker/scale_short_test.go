//go:build !faults

package worker

// long: tests run in full, as for a release.
const long = false
