package rdb

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRedactedURLsKeepWhatHelps(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		"embedded":                               "embedded",
		"redis://localhost:6379/0":               "redis://localhost:6379/0",
		"redis://user:hunter2@localhost:6379/0":  "redis://(redacted)@localhost:6379/0",
		"redis://:hunt@er2@localhost":            "redis://(redacted)@localhost",
		"redis+cluster://a:1,b:2?secret=hunter2": "redis+cluster://a:1,b:2?(redacted)",
		"hunter2":                                "(redacted)",
		"":                                       "",
	} {
		require.Equal(t, want, URL(raw).String())
	}
}
