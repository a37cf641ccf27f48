package rdb

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestVersionsOfRedis(t *testing.T) {
	t.Parallel()
	for version, fits := range map[string]bool{
		"5.0.14": false, "6.0.20": false, "6.2.0": true, "6.2.14": true, "6.10.1": true, "7.0.15": true, "8.2.1": true, "10.0.0": true,
		"": true, "unknown": true, "6": true, "255.255.255": true,
	} {
		require.Equal(t, fits, atLeast(version, oldestRedis), version)
	}
	require.Equal(t, "6.0.1", InfoField("# Server\r\nredis_version:6.0.1\r\nredis_mode:standalone\r\n", "redis_version"))
	require.Empty(t, InfoField("# Server\r\n", "redis_version"))
}
