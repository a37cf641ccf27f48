package config_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/config"
	"github.com/batchd/batchd/queue/rdb"
)

func TestSecretsDoNotShowHoweverTheyArePrinted(t *testing.T) {
	t.Parallel()
	c := load(t, config.Options{File: "testdata/good/full.yaml"})
	values := map[string]any{
		"config": c, "secret": c.Webhooks.Secret, "redis url": c.Redis.URL,
		"webhooks": c.Webhooks, "redis": c.Redis, "seal": c.Seal, "seal key": c.Seal.Keys[0], "pointer": &c.Seal,
	}
	for name, value := range values {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t"} {
				requireNoSecret(t, fmt.Sprintf(verb, value))
				requireNoHex(t, fmt.Sprintf(verb, value))
			}
			var log bytes.Buffer
			slog.New(slog.NewTextHandler(&log, nil)).Info("loaded", "value", value)
			slog.New(slog.NewJSONHandler(&log, nil)).Info("loaded", "value", value)
			require.NotEmpty(t, log.String())
			requireNoSecret(t, log.String())
			if name != "config" {
				encoded, err := json.Marshal(value)
				require.NoError(t, err)
				requireNoSecret(t, string(encoded))
			}
		})
	}
}

func requireNoHex(t *testing.T, text string) {
	t.Helper()
	for _, secret := range secrets {
		require.NotContains(t, text, fmt.Sprintf("%x", secret))
		require.NotContains(t, text, fmt.Sprintf("%X", secret))
	}
}

func TestSecretsAreThereForWhoAsks(t *testing.T) {
	t.Parallel()
	c := load(t, config.Options{File: "testdata/good/full.yaml"})
	require.Equal(t, "redis://user:hunter2@localhost:6379/2?client_name=hunter2", c.Redis.URL.Reveal())
	require.Equal(t, "redis", c.Redis.URL.Scheme())
	require.Empty(t, rdb.URL(rdb.Embedded).Scheme())
	require.Equal(t, "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=", c.Webhooks.Secret.Reveal())
}

func TestTheAuthoritiesOfTheIssuerAreNamedRelativeToTheFile(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("testdata/ca.pem")
	require.NoError(t, err)
	file := write(t, oneTarget+"auth: {jwt: {ca_file: ca.pem}}\n")
	beside := filepath.Join(filepath.Dir(file), "ca.pem")
	_, err = config.Load(config.Options{File: file})
	require.ErrorContains(t, err, "auth.jwt.ca_file: cannot read "+beside)
	require.NoError(t, os.WriteFile(beside, source, 0o600))
	require.Equal(t, beside, load(t, config.Options{File: file}).Auth.JWT.CAFile)
}
