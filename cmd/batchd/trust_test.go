package main

import (
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/certs/certstest"
)

// The commands reach a server that speaks TLS, and show it a certificate.
func TestCommandsSpeakTLS(t *testing.T) {
	t.Parallel()
	target := newSlowTarget(t)
	target.release()
	dir := t.TempDir()
	ours, clients, another := certstest.New(t, "ours"), certstest.New(t, "clients"), certstest.New(t, "another")
	cert, key := ours.WritePair(t, dir, "batchd.example")
	clientCert, clientKey := clients.WritePair(t, dir, "client")
	otherCert, otherKey := another.WritePair(t, dir, "other")
	ca := certstest.Write(t, dir, "ca.pem", ours.PEM)
	serve := startProcess(t, nil, "serve", "--listen", "127.0.0.1:0", "--target", target.URL,
		"--server-tls-cert-file", cert, "--server-tls-key-file", key, "--server-tls-client-ca-file", certstest.Write(t, dir, "clients.pem", clients.PEM))
	require.True(t, strings.HasPrefix(serve.url, "https://127.0.0.1:"), serve.url)

	trusted := []string{"--ca-file", ca, "--cert-file", clientCert, "--key-file", clientKey}
	ask := func(args ...string) commandResult {
		return batchd(t, threeLines, append([]string{"submit", "-", "--wait", "--server", serve.url}, args...)...)
	}
	got := ask(trusted...)
	require.Equal(t, exitOK, got.code, got.stderr)
	got = ask(append(trusted, "--server-name", "batchd.example")...)
	require.Equal(t, exitOK, got.code, got.stderr)
	for want, args := range map[string][]string{
		"unknown authority":                {"--cert-file", clientCert, "--key-file", clientKey},
		"not evil.example":                 append([]string{"--server-name", "evil.example"}, trusted...),
		"client.key has no certificate":    {"--ca-file", clientKey},
		"needs its key":                    {"--cert-file", clientCert},
		"cannot be used with":              {"--cert-file", clientCert, "--key-file", otherKey},
		"--ca-file is empty: give it a va": {"--ca-file", ""},
	} {
		got := ask(args...)
		require.Equal(t, exitFailure, got.code, args)
		require.Contains(t, got.stderr, want)
	}

	// In TLS 1.3 a client may send its request before it reads why the server has closed the connection.
	for _, args := range [][]string{{"--ca-file", ca}, {"--ca-file", ca, "--cert-file", otherCert, "--key-file", otherKey}} {
		got := ask(args...)
		require.Equal(t, exitFailure, got.code, args)
		require.Contains(t, got.stderr, "cannot talk to the server")
	}

	health := append([]string{"health", "--url", serve.url + "/readyz"}, trusted...)
	require.Equal(t, exitOK, batchd(t, "", health...).code)
	require.Equal(t, exitFailure, batchd(t, "", health[:3]...).code)

	serve.wait()
	require.NoError(t, serve.Process.Signal(syscall.SIGTERM))
	serve.requireEnd(t)
}

// Not parallel: it sets variables.
func TestVariablesConfigureTLSOfCommands(t *testing.T) {
	dir := t.TempDir()
	ca := certstest.New(t, "ours")
	cert, key := ca.WritePair(t, dir, "client")
	t.Setenv("BATCHD_CA_FILE", certstest.Write(t, dir, "ca.pem", ca.PEM))
	t.Setenv("BATCHD_CERT_FILE", cert)
	t.Setenv("BATCHD_KEY_FILE", key)
	t.Setenv("BATCHD_SERVER_NAME", "batchd.example")
	cfg, err := new(trust).config()
	require.NoError(t, err)
	require.NotNil(t, cfg.RootCAs)
	require.NotNil(t, cfg.GetClientCertificate)
	require.Equal(t, "batchd.example", cfg.ServerName)
	t.Setenv("BATCHD_KEY_FILE", "")
	_, err = new(trust).config()
	require.ErrorContains(t, err, "needs its key")
}
