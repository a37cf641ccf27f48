package config

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// /dev/zero has no end.
func TestAFileWithoutAnEndIsRefused(t *testing.T) {
	t.Parallel()
	_, err := ReadSecret("/dev/zero")
	require.ErrorContains(t, err, "it has more than 64KiB: is it the right file?")
	_, err = Load(Options{File: "/dev/zero"})
	require.ErrorContains(t, err, "it has more than 16MiB")
	_, err = Load(Options{Set: map[string]string{"target": "http://127.0.0.1:9", "seal.file": "/dev/zero"}})
	require.ErrorContains(t, err, "it has more than 16MiB")
	_, err = loadKeys("/dev/zero")
	require.ErrorContains(t, err, "it has more than 16MiB")
}
