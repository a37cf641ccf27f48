package main

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/config"
)

func TestSettingsWithoutAnEffectAreWarnedOf(t *testing.T) {
	t.Parallel()
	const target = "targets: [{name: crm, base_url: 'http://127.0.0.1:9000', verify: {method: GET, path: /me}}]\n"
	for _, row := range []struct {
		settings string
		want     []string
	}{
		{target, []string{"targets[].verify has no effect", "target=crm"}},
		{target + "auth: {modes: [passthrough]}\n", nil},
		{target + "auth: {modes: [passthrough], sessions: {client_id: a}}\n", []string{"auth.sessions.client_id has no effect"}},
	} {
		cfg, err := config.Load(config.Options{File: file(t, "b.yaml", row.settings)})
		require.NoError(t, err)
		var log strings.Builder
		warnUnused(t.Context(), slog.New(slog.NewTextHandler(&log, nil)), cfg)
		require.Equal(t, len(row.want) > 0, log.Len() > 0, log.String())
		for _, want := range row.want {
			require.Contains(t, log.String(), want)
		}
	}
}
