package setting_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/setting"
)

func TestByteSizes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]setting.ByteSize{
		"0": 0, "1": 1, "17B": 17, "1KB": 1000, "1KiB": 1024, "10MB": 10_000_000, "256MiB": 256 << 20, "2GiB": 2 << 30, "3GB": 3e9,
	} {
		got, err := setting.ParseByteSize(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
		again, err := setting.ParseByteSize(got.String())
		require.NoError(t, err, text)
		require.Equal(t, want, again, text)
	}
	for _, text := range []string{"", "B", "MiB", "-1", "-1MiB", "+1", "1.5MiB", "1 MiB", "1mib", "1M", "1TiB", "0x10", "9223372036854775808", "9223372036854775807KB", "10 parsecs"} {
		_, err := setting.ParseByteSize(text)
		require.ErrorContains(t, err, "as a size", "%q", text)
	}
}
