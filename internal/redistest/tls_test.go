package redistest

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAServerWithoutTLSIsExplained(t *testing.T) {
	t.Parallel()
	const without = "*** FATAL CONFIG FILE ERROR (Redis 7.0.15) ***\nReading the configuration file, at line 9\n>>> 'tls-port \"16400\"'\nBad directive or wrong number of arguments\n"
	require.Contains(t, advice(without), "built without TLS")
	require.Empty(t, advice("Could not create server TCP listening socket 127.0.0.1:1: bind: Permission denied\n"))
}
