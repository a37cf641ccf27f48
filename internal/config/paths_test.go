package config_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/certs/certstest"
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

// The files of TLS with Redis are needed by every process, and are read with the configuration.
func TestFilesForRedisAreReadWithTheConfiguration(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "batchd.yaml")
	require.NoError(t, os.WriteFile(file, []byte("redis:\n  url: rediss://h\n  tls:\n    ca_file: ca.pem\n    cert_file: client.pem\n    key_file: client.key\ntargets: [{name: a, base_url: \"http://127.0.0.1:1\"}]\n"), 0o600))
	_, err := config.Load(config.Options{File: file})
	for _, line := range []string{
		file + ":4: redis.tls.ca_file: cannot read " + filepath.Join(dir, "ca.pem"), file + ":5: redis.tls.cert_file: cannot read " + filepath.Join(dir, "client.pem"),
		file + ":6: redis.tls.key_file: cannot read " + filepath.Join(dir, "client.key"),
	} {
		require.ErrorContains(t, err, line)
	}
	ca := certstest.New(t, "authority")
	certstest.Write(t, dir, "ca.pem", ca.PEM)
	cert, _ := ca.WritePair(t, dir, "client")
	c := load(t, config.Options{File: file})
	require.Equal(t, cert, c.Redis.TLS.CertFile)
	require.Equal(t, filepath.Join(dir, "ca.pem"), c.Redis.TLS.CAFile)
	_, err = config.Load(config.Options{File: file, Environ: []string{"BATCHD_REDIS_TLS_CA_FILE=" + cert + "x"}})
	require.ErrorContains(t, err, "BATCHD_REDIS_TLS_CA_FILE: cannot read "+cert+"x: no such file")
	_, other := ca.WritePair(t, t.TempDir(), "other")
	_, err = config.Load(config.Options{File: file, Set: map[string]string{"redis.tls.key_file": other}})
	require.ErrorContains(t, err, "--redis-tls-key-file: "+other+": the key cannot be used with "+cert)
	_, err = config.Load(config.Options{File: file, Environ: []string{"BATCHD_REDIS_TLS_CAFILE=x"}})
	require.ErrorContains(t, err, "did you mean BATCHD_REDIS_TLS_CA_FILE?")
	_, err = config.Load(config.Options{File: file, Environ: []string{"BATCHD_REDIS_URL=redis://h"}})
	require.ErrorContains(t, err, file+":4: redis.tls.ca_file: redis.url begins with redis://")
}
