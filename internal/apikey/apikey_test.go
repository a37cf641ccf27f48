package apikey_test

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/apikey"
)

func TestKeysAreRandomAndHaveAChecksum(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for range 100 {
		key := apikey.New()
		require.Regexp(t, `^batchd_[0-9A-Za-z]{49}$`, key)
		require.True(t, apikey.Valid(key))
		require.False(t, seen[key])
		seen[key] = true
		for i := range key {
			wrong := []byte(key)
			if wrong[i]++; wrong[i] > 'z' {
				wrong[i] = '0'
			}
			require.False(t, apikey.Valid(string(wrong)), "a typing error at %d", i)
		}
		require.False(t, apikey.Valid(key+"0"))
		require.False(t, apikey.Valid(key[1:]))
		require.Len(t, apikey.HexHash(key), 64)
	}
	require.False(t, apikey.Valid(""))
}

func TestWhatLooksLikeAKeyIsFound(t *testing.T) {
	t.Parallel()
	key := apikey.New()
	for _, text := range []string{
		key, "Bearer " + key, "x" + key + "x", key[:40], key[:len(key)-1] + "0", "a=1&token=" + key, "batchd_ " + key, "batchd_" + key,
		"Basic " + base64.StdEncoding.EncodeToString([]byte(key+":")), "Basic " + base64.StdEncoding.EncodeToString([]byte("u:"+key)),
		"basic\t" + base64.RawURLEncoding.EncodeToString([]byte("user-name:"+key)), "a=b; session=" + base64.StdEncoding.EncodeToString([]byte(key)),
		strings.ReplaceAll(key, "_", "%5f"), "/items/" + strings.ReplaceAll(key, "b", "%62"),
	} {
		require.True(t, apikey.InValue(text), text)
	}
	for _, text := range []string{"", "batchd_", "batchd_user", "batchd_requests_total", "Bearer abc", "Basic Zm9vOmJhcg==", "batchd_abc-0123456789abcdefghijklmnopqrstuvw", strings.Repeat("batchd_", 50)} {
		require.False(t, apikey.InValue(text), text)
	}
}
