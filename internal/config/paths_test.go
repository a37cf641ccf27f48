package config_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/config"
)

// A file names other files as it sees them, a variable as the process does.
func TestPathsInAFileAreRelativeToIt(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "batchd.yaml")
	require.NoError(t, os.WriteFile(file, []byte("server: {tls: {cert_file: tls.crt, key_file: keys/tls.key, client_ca_file: /etc/clients.pem}}\ntargets: [{name: a, base_url: \"http://127.0.0.1:1\"}]\n"), 0o600))
	c := load(t, config.Options{File: file})
	require.Equal(t, filepath.Join(dir, "tls.crt"), c.Server.TLS.CertFile)
	require.Equal(t, filepath.Join(dir, "keys/tls.key"), c.Server.TLS.KeyFile)
	require.Equal(t, "/etc/clients.pem", c.Server.TLS.ClientCAFile)
	c = load(t, config.Options{File: file, Environ: []string{"BATCHD_SERVER_TLS_CERT_FILE=here.crt", "BATCHD_CA_FILE=x", "BATCHD_CERT_FILE=x", "BATCHD_KEY_FILE=x", "BATCHD_SERVER_NAME=x"}})
	require.Equal(t, "here.crt", c.Server.TLS.CertFile)
	_, err := config.Load(config.Options{File: file, Environ: []string{"BATCHD_SERVER_TLS_CERTFILE=x"}})
	require.ErrorContains(t, err, "BATCHD_SERVER_TLS_CERT_FILE")
}
