package main

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/certs/certstest"
)

const checkedTarget = "targets: [{name: crm, base_url: 'http://127.0.0.1:9'}]\n"

func TestConfigCheckReportsWhatWouldStopTheStart(t *testing.T) {
	t.Parallel()
	dir, ca, other := t.TempDir(), certstest.New(t, "authority"), certstest.New(t, "other")
	cert, key := ca.WritePair(t, dir, "server")
	_, otherKey := other.WritePair(t, dir, "other")
	authority := certstest.Write(t, dir, "ca.pem", ca.PEM)
	missing := filepath.Join(dir, "missing", "file")
	for text, want := range map[string]string{
		"server: {tls: {cert_file: " + missing + ", key_file: " + key + "}}":                               "yaml:2: server.tls.cert_file: cannot read " + missing + ": no such file or directory",
		"server: {tls: {cert_file: " + cert + ", key_file: " + missing + "}}":                              "yaml:2: server.tls.key_file: cannot read " + missing + ": no such file or directory",
		"server: {tls: {cert_file: " + cert + ", key_file: " + otherKey + "}}":                             "yaml:2: server.tls.key_file: " + otherKey + ": the key cannot be used with " + cert,
		"server: {tls: {cert_file: " + key + ", key_file: " + key + "}}":                                   "yaml:2: server.tls.cert_file: " + key + " has no certificate",
		"server: {tls: {cert_file: " + cert + ", key_file: " + key + ", client_ca_file: " + missing + "}}": "yaml:2: server.tls.client_ca_file: cannot read " + missing,
		"audit: {output: " + missing + "}":                                                                 "yaml:2: audit.output: the directory " + filepath.Dir(missing) + " does not exist",
		"audit: {output: " + cert + "/audit.log}":                                                          "yaml:2: audit.output: " + cert + " is not a directory",
		"audit: {output: " + dir + "}":                                                                     "yaml:2: audit.output: " + dir + " is a directory",
		"redis: {url: 'redis://localhost:6379/x'}":                                                         "yaml:2: redis.url: the Redis URL has a path that is not the number of a database",
		"redis: {url: 'redis+sentinel://one:26379'}":                                                       "yaml:2: redis.url: the Redis URL names no master",
		"redis: {url: 'redis+cluster://one:6379/1'}":                                                       "yaml:2: redis.url: a Redis cluster has no numbered databases or options",
		"redis: {url: 'redis://localhost?optoin=1'}":                                                       "yaml:2: redis.url: the Redis URL has an unknown option",
	} {
		got := batchd(t, "", "config", "check", file(t, "b.yaml", checkedTarget+text+"\n"))
		require.Equal(t, exitFailure, got.code, text)
		require.Contains(t, got.stderr, want, text)
		require.Empty(t, got.stdout)
	}
	for _, text := range []string{
		"server: {tls: {cert_file: " + cert + ", key_file: " + key + ", client_ca_file: " + authority + "}}",
		"audit: {output: " + filepath.Join(dir, "audit.log") + "}",
		"audit: {output: stdout}",
		"redis: {url: 'redis://localhost:6379/1'}",
	} {
		got := batchd(t, "", "config", "check", file(t, "b.yaml", checkedTarget+text+"\n"))
		require.Equal(t, exitOK, got.code, got.stderr)
	}
	require.NoFileExists(t, filepath.Join(dir, "audit.log"), "a check makes no file")
}

func TestConfigCheckWithoutAFileChecksTheOneOfTheVariable(t *testing.T) {
	got := batchd(t, "", "config", "check")
	require.Equal(t, exitFailure, got.code)
	require.Contains(t, got.stderr, "the FILE is missing: name it, or set BATCHD_CONFIG: usage: batchd config check [FILE]")
	t.Setenv("BATCHD_CONFIG", file(t, "b.yaml", checkedTarget+"log: {level: loud}\n"))
	got = batchd(t, "", "config", "check")
	require.Equal(t, exitFailure, got.code)
	require.Contains(t, got.stderr, "b.yaml:2: log.level: ")
	good := file(t, "good.yaml", checkedTarget)
	require.Equal(t, exitOK, batchd(t, "", "config", "check", good).code, "a file that is named counts")
	t.Setenv("BATCHD_CONFIG", good)
	got = batchd(t, "", "config", "check")
	require.Equal(t, exitOK, got.code, got.stderr)
	require.Contains(t, got.stdout, "crm")
}
