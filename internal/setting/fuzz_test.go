package setting_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/setting"
)

func FuzzByteSize(f *testing.F) {
	for _, seed := range []string{"1MiB", "10MB", "0", "-0", "+1", "1.5GiB", "9223372036854775807", "9007199254740992KiB", "B", "", "-0KiB", "00B", "1kib"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		size, err := setting.ParseByteSize(text)
		if err != nil {
			return
		}
		require.GreaterOrEqual(t, size, setting.ByteSize(0))
		require.Regexp(t, `^[0-9]+([KMG]i?)?B?$`, text)
		again, err := setting.ParseByteSize(size.String())
		require.NoError(t, err)
		require.Equal(t, size, again)
	})
}

// FuzzRedactURL hides the password and the query of any URL.
func FuzzRedactURL(f *testing.F) {
	f.Add("redis", "u:", "@", "h:1/0")
	f.Add("redis+cluster", ":", "@x@", "h,i?a=b@")
	f.Add("", "", "", "")
	f.Add("http", "h/?key=", "", "#x")
	f.Fuzz(func(t *testing.T, scheme, before, after, host string) {
		const secret = "0s3cret0"
		for _, raw := range []string{
			scheme + "://" + before + secret + after + "@" + host, // a password
			scheme + "://" + host + "?" + before + secret + after, // a parameter
			strings.ReplaceAll(before+secret+after, "://", ""),    // no URL
		} {
			if strings.Contains(scheme+host, secret) || strings.Contains(scheme, "://") {
				return
			}
			require.NotContains(t, setting.RedactURL(raw), secret)
		}
	})
}

func FuzzClip(f *testing.F) {
	f.Add(strings.Repeat("ä", 50))
	f.Fuzz(func(t *testing.T, text string) {
		clipped := setting.Clip(text)
		require.LessOrEqual(t, len(clipped), 64+len("…"))
		if utf8.ValidString(text) {
			require.True(t, utf8.ValidString(clipped))
		}
	})
}
