package main

import (
	"fmt"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/certs/certstest"
	"github.com/batchd/batchd/internal/redistest"
)

// All commands that use Redis show it their certificate: the API, a worker and the commands for keys and seals.
func TestEveryCommandReachesARedisWithAPrivateAuthority(t *testing.T) {
	t.Parallel()
	target := newSlowTarget(t)
	target.release()
	dir, ca := t.TempDir(), certstest.New(t, "authority")
	root := certstest.Write(t, dir, "ca.pem", ca.PEM)
	cert, key := ca.WritePair(t, dir, "redis")
	ca.WritePair(t, dir, "client")
	server := redistest.StartTLS(t, redistest.Files{CA: root, Cert: cert, Key: key})
	configuration := filepath.Join(dir, "batchd.yaml")
	certstest.Write(t, dir, "batchd.yaml", fmt.Appendf(nil, `redis: {url: "rediss://%s", tls: {ca_file: ca.pem, cert_file: client.pem, key_file: client.key}}
seal: {keys: [{id: one, base64: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}]}
targets: [{name: crm, base_url: "%s"}]
`, server.TLSAddr, target.URL))

	api := startProcess(t, nil, "api", "--config", configuration, "--listen", "127.0.0.1:0")
	worker := startProcess(t, nil, "worker", "--config", configuration, "--worker-listen", "127.0.0.1:0")
	got := batchd(t, threeLines, "submit", "-", "--wait", "--server", api.url)
	require.Equal(t, exitOK, got.code, got.stderr)
	for _, args := range [][]string{{"keys", "create", "ci"}, {"keys", "list"}, {"seal", "rotate"}} {
		got := batchd(t, "", append(args, "--config", configuration)...)
		require.Equal(t, exitOK, got.code, "%v: %s", args, got.stderr)
	}
	for _, p := range []*process{worker, api} {
		p.wait()
		require.NoError(t, p.Process.Signal(syscall.SIGTERM))
		p.requireEnd(t)
	}

	for want, args := range map[string][]string{
		"--redis-tls-ca-file: cannot read none.pem: no such file or directory":                         {"--redis-tls-ca-file", "none.pem"},
		"redis.tls.ca_file: redis.url begins with redis://, and so the connections to Redis would not": {"--redis-url", "redis://" + server.Addr},
	} {
		got := batchd(t, "", append([]string{"worker", "--config", configuration}, args...)...)
		require.Equal(t, exitFailure, got.code)
		require.Contains(t, got.stderr, want)
	}
	got = batchd(t, "", "keys", "list", "--config", configuration)
	require.Equal(t, exitOK, got.code, got.stderr)
	certstest.Write(t, dir, "ca.pem", certstest.New(t, "another").PEM)
	got = batchd(t, "", "keys", "list", "--config", configuration)
	require.Equal(t, exitFailure, got.code)
	require.Contains(t, got.stderr, "unknown authority")
}
