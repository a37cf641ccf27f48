package apikey_test

import (
	"encoding/base64"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/apikey"
)

// FuzzKeysAreFound puts a key into any text, in each form in which it is recognised.
func FuzzKeysAreFound(f *testing.F) {
	f.Add("Bearer ", "")
	f.Add("Basic dTo", "=")
	f.Add("%", "%zz")
	f.Add("batchd_", "batchd_")
	key := apikey.New()
	f.Fuzz(func(t *testing.T, before, after string) {
		require.True(t, apikey.In([]byte(before+key+after)))
		require.True(t, apikey.InValue(before+key+after))
		require.True(t, apikey.InValue("Basic "+base64.StdEncoding.EncodeToString([]byte(before+key+after))))
		require.True(t, apikey.InValue("a="+base64.RawURLEncoding.EncodeToString([]byte(before+key+after))+"&b"))
		require.True(t, apikey.InValue(url.QueryEscape(before+key+after)))
		if text := before + after; apikey.Valid(text) {
			require.True(t, apikey.InValue(text))
			require.Len(t, text, apikey.Len)
		}
	})
}
