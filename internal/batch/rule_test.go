package batch

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestADenyRuleHoldsForEverySpelling(t *testing.T) {
	t.Parallel()
	attachments := &Rule{Method: "POST", Path: "/attachments/**"}
	for _, p := range []string{
		"/attachments", "/attachments/", "/attachments/1", "/Attachments/1/2", "/%61ttachments/1", "/%2561ttachments", "/attachments;x=1/2", "/attachments%2F1", "/;a/attachments",
	} {
		require.True(t, attachments.Denies("POST", p), p)
	}
	require.False(t, attachments.Denies("GET", "/attachments/1"))
	require.False(t, attachments.Denies("POST", "/attachments2/1"))
	require.False(t, attachments.Denies("POST", "/a/attachments/1"))
	one := &Rule{Path: "/v1/*/batch"}
	require.True(t, one.Denies("PUT", "/v1/x/BATCH/"))
	require.False(t, one.Denies("PUT", "/v1/batch"))
	require.False(t, one.Denies("PUT", "/v1/x/y/batch"))
	require.True(t, (&Rule{Method: "*", Path: "/**"}).Denies("GET", "/"))
}

func TestAnAllowRuleHoldsForItsOwnSpelling(t *testing.T) {
	t.Parallel()
	items := &Rule{Method: "GET", Path: "/items/*"}
	require.True(t, items.Allows("GET", "/items/1"))
	require.True(t, items.Allows("GET", "/items/%31"))
	for _, p := range []string{"/items", "/items/", "/Items/1", "/items/1/2", "/items%2F1/2"} {
		require.False(t, items.Allows("GET", p), p)
	}
}

func TestRates(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Rate{
		"1500/min": {1500, time.Minute}, "10/s": {10, time.Second}, "100/15m": {100, 15 * time.Minute}, "5/hour": {5, time.Hour},
	} {
		got, err := ParseRate(text)
		require.NoError(t, err)
		require.Equal(t, want, got)
		again, err := ParseRate(got.String())
		require.NoError(t, err)
		require.Equal(t, want, again)
	}
	for _, text := range []string{"", "10", "/s", "0/s", "-1/s", "10/", "10/fortnight", "x/s", "10/1ms", "10/48h"} {
		_, err := ParseRate(text)
		require.Error(t, err, text)
	}
}
