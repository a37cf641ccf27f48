package config_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/certs/certstest"
	"github.com/batchd/batchd/internal/config"
)

var update = flag.Bool("update", false, "write what comes out into the golden files")

// secrets are parts of the secrets in testdata. They must never be shown.
var secrets = []string{"hunter2", "aHVudGVy", "MDEyMzQ1", "ZmVkY2Jh"}

func requireNoSecret(t *testing.T, text string) {
	t.Helper()
	for _, secret := range secrets {
		require.NotContains(t, text, secret)
	}
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		require.NoError(t, os.WriteFile(file, []byte(got), 0o600))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}

func files(t *testing.T, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	require.NoError(t, err)
	require.NotEmpty(t, found)
	return found
}

func TestBadFilesAreFaultedWithLineKeyAndExpectation(t *testing.T) {
	t.Parallel()
	for _, file := range files(t, "testdata/bad/*.yaml") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			_, err := config.Load(config.Options{File: file})
			var faults *config.Error
			require.ErrorAs(t, err, &faults)
			require.NotEmpty(t, faults.Faults)
			requireNoSecret(t, err.Error())
			golden(t, strings.TrimSuffix(file, ".yaml")+".txt", err.Error()+"\n")
		})
	}
}

func TestGoodFilesTakeEffect(t *testing.T) {
	t.Parallel()
	for _, file := range files(t, "testdata/good/*.yaml") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			c, err := config.Load(config.Options{File: file})
			require.NoError(t, err)
			requireNoSecret(t, c.Summary())
			golden(t, strings.TrimSuffix(file, ".yaml")+".txt", c.Summary())
		})
	}
}

func write(t *testing.T, source string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "batchd.yaml")
	require.NoError(t, os.WriteFile(file, []byte(source), 0o600))
	return file
}

func load(t *testing.T, o config.Options) *config.Config {
	t.Helper()
	c, err := config.Load(o)
	require.NoError(t, err)
	return c
}

const oneTarget = "targets: [{name: crm, base_url: 'http://127.0.0.1:9000'}]\n"

func TestSummaryIsAFileThatMeansTheSame(t *testing.T) {
	t.Parallel()
	for _, file := range files(t, "testdata/good/*.yaml") {
		c := load(t, config.Options{File: file})
		if strings.Contains(c.Summary(), "(redacted)") {
			continue
		}
		again := load(t, config.Options{File: write(t, c.Summary())})
		require.Equal(t, withoutComments(c.Summary()), withoutComments(again.Summary()), file)
	}
}

func withoutComments(text string) string {
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i], _, _ = strings.Cut(lines[i], "  #")
	}
	return strings.Join(lines, "\n")
}

func TestTargetAloneIsEnough(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]config.Options{
		"flag":     {Set: map[string]string{"target": "http://127.0.0.1:9000"}},
		"variable": {Environ: []string{"BATCHD_TARGET=http://127.0.0.1:9000"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := load(t, o)
			require.Len(t, c.Targets, 1)
			require.Equal(t, "http://127.0.0.1:9000", c.Target(config.DefaultTarget).BaseURL)
			require.Equal(t, 64, c.Targets[0].Concurrency)
			require.Nil(t, c.Target("crm"))
		})
	}
}

func TestTargetTakesThePlaceOfTheFiles(t *testing.T) {
	t.Parallel()
	// A fault of a replaced setting is still reported: it would appear once the flag is
	// removed.
	file := write(t, "targets: [{name: crm, base_url: 'http://127.0.0.1:9000', timeout: 5}, {name: crm}]\nendpoints: [{path: /crm/batch}]\n")
	_, err := config.Load(config.Options{File: file, Set: map[string]string{"target": "http://127.0.0.1:9001"}})
	require.EqualError(t, err, file+`:1: targets[0].timeout: cannot read "5" as a duration: its unit is missing: expected for example 30s`)

	c := load(t, config.Options{
		File: write(t, oneTarget+"endpoints: [{path: /crm/batch}]\n"),
		Set:  map[string]string{"target": "http://127.0.0.1:9001"},
	})
	require.Len(t, c.Targets, 1)
	require.Equal(t, "http://127.0.0.1:9001", c.Targets[0].BaseURL)
	require.Equal(t, config.DefaultTarget, c.Endpoints[0].Target)
}

func TestFlagGoesBeforeEnvironmentBeforeFileBeforeDefault(t *testing.T) {
	t.Parallel()
	file := write(t, oneTarget+"limits: {max_actions: 2}\n")
	environ := []string{"BATCHD_LIMITS_MAX_ACTIONS=3"}
	set := map[string]string{"limits.max_actions": "4"}

	require.Equal(t, 100_000, load(t, config.Options{File: write(t, oneTarget)}).Limits.MaxActions)
	require.Equal(t, 2, load(t, config.Options{File: file}).Limits.MaxActions)
	require.Equal(t, 3, load(t, config.Options{File: file, Environ: environ}).Limits.MaxActions)
	c := load(t, config.Options{File: file, Environ: environ, Set: set})
	require.Equal(t, 4, c.Limits.MaxActions)
	require.Contains(t, c.Summary(), "max_actions: 4  # --limits-max-actions\n")
}

func TestEverySettingHasAVariableAndAFlag(t *testing.T) {
	t.Parallel()
	dir, ca := t.TempDir(), certstest.New(t, "authority")
	caFile := certstest.Write(t, dir, "ca.pem", ca.PEM)
	certFile, keyFile := ca.WritePair(t, dir, "client")
	values := map[string]string{
		"listen": "127.0.0.1:1", "log.level": "debug", "log.format": "json", "redis.url": "rediss://h:1", "redis.password": "p",
		"redis.tls.ca_file": caFile, "redis.tls.cert_file": certFile, "redis.tls.key_file": keyFile, "redis.tls.server_name": "redis.example.com",
		"auth.modes": "none", "auth.keys_file": "testdata/none.yaml", "auth.allow_open_listener": "true", "auth.hosts": "a.example, b.example:7",
		"auth.jwt.issuer": "https://login.example.com", "auth.jwt.audience": "batchd", "auth.jwt.owner_claim": "email", "auth.jwt.scopes_claim": "roles",
		"auth.jwt.default_scopes": "read, cancel", "auth.jwt.targets_claim": "targets", "auth.jwt.ca_file": "testdata/ca.pem",
		"auth.sessions.url": "https://batchd.example.com", "auth.sessions.lifetime": "7h", "auth.sessions.idle": "7m", "auth.sessions.client_id": "c",
		"auth.sessions.client_secret": "secret", "auth.sessions.scopes": "openid, groups",
		"seal.keys": "a:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=", "seal.file": "testdata/good/seal.keys",
		"seal.accept_clear_until": "2027-01-31",
		"server.tls.cert_file":    "b.crt", "server.tls.key_file": "b.key", "server.tls.client_ca_file": "b.pem", "server.tls.client_auth": "if_given", "server.tls.min_version": "1.3",
		"audit.output":        "stdout",
		"server.cors.origins": "https://a.example,https://b.example", "server.cors.credentials": "true",
		"webhooks.secret": "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=", "webhooks.allow_private": "true",
		"webhooks.previous_secret": "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
		"limits.max_actions":       "7", "limits.max_body": "7MiB", "limits.max_action_body": "7KiB", "limits.expires_in": "7h",
		"limits.max_expires_in": "77h", "limits.retention": "7h", "limits.max_retention": "77h", "limits.max_wait": "7s",
		"limits.body_memory": "7MiB", "limits.body_ratio": "7", "limits.body_rate": "7KiB",
		"limits.connections": "7", "limits.connections_per_owner": "7", "limits.connections_per_address": "7",
		"limits.streams": "7", "limits.streams_per_owner": "7", "limits.waits": "7", "limits.waits_per_owner": "7",
		"limits.credential_checks": "7", "limits.credential_checks_per_address": "7",
		"limits.rate": "7/min", "limits.concurrent": "7", "limits.when_exceeded": "queue", "limits.per_address": "7",
		"quotas.open_batches": "7", "quotas.stored_bytes": "7MiB", "quotas.upload_rate": "7KiB", "quotas.upload_burst": "7GiB",
		"quotas.per_address.open_batches": "7", "quotas.per_address.stored_bytes": "7MiB", "quotas.per_address.upload_rate": "7KiB", "quotas.per_address.upload_burst": "7GiB",
		"worker.listen": "127.0.0.1:1", "worker.drain": "7s", "monitor.listen": "127.0.0.1:1", "target": "http://127.0.0.1:7",
	}
	settings := config.Settings()
	require.Len(t, settings, len(values))
	for _, s := range settings {
		t.Run(s.Path, func(t *testing.T) {
			t.Parallel()
			value, ok := values[s.Path]
			require.True(t, ok)
			require.Equal(t, "BATCHD_"+strings.ToUpper(strings.ReplaceAll(s.Path, ".", "_")), s.Env)
			file := write(t, oneTarget+"webhooks: {secret: whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD}\n"+ // for previous_secret
				"server: {tls: {cert_file: a.crt, key_file: a.key, client_ca_file: a.pem}, cors: {origins: [\"https://a.example\"]}}\n"+
				"redis: {url: 'rediss://h', tls: {cert_file: "+certFile+", key_file: "+keyFile+"}}\n")
			fromVariable := load(t, config.Options{File: file, Environ: []string{s.Env + "=" + value}})
			require.Contains(t, fromVariable.Summary(), "# "+s.Env+"\n")
			fromFlag := load(t, config.Options{File: file, Set: map[string]string{s.Path: value}})
			require.Contains(t, fromFlag.Summary(), "# --"+s.Flag+"\n")
			require.Equal(t, withoutComments(fromVariable.Summary()), withoutComments(fromFlag.Summary()))
		})
	}
}

func TestSettingsTellTheirDefaults(t *testing.T) {
	t.Parallel()
	defaults := map[string]string{}
	for _, s := range config.Settings() {
		defaults[s.Flag] = s.Default
		require.Equal(t, s.Path == "seal.keys" || strings.HasPrefix(s.Path, "webhooks.") && strings.HasSuffix(s.Path, "secret") || s.Path == "redis.password" || s.Path == "auth.sessions.client_secret", s.Secret, s.Path)
	}
	require.Equal(t, "embedded", defaults["redis-url"])
	require.Equal(t, "256MiB", defaults["limits-max-body"])
	require.Equal(t, "1m", defaults["limits-max-wait"])
	require.Equal(t, "false", defaults["webhooks-allow-private"])
	require.Empty(t, defaults["seal-keys"])
	require.Empty(t, defaults["target"])
}

func TestOverridesAreFaultedByTheirOwnNames(t *testing.T) {
	t.Parallel()
	const key = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
	tests := map[string]struct {
		environ []string
		set     map[string]string
		want    string
	}{
		"value in a variable": {
			environ: []string{"BATCHD_WORKER_DRAIN=25"},
			want:    `BATCHD_WORKER_DRAIN: cannot read "25" as a duration: its unit is missing: expected for example 30s`,
		},
		"duration in days": {
			set:  map[string]string{"limits.retention": "7d"},
			want: `--limits-retention: cannot read "7d" as a duration: days are no unit here: write 168h`,
		},
		"value in a flag": {
			set:  map[string]string{"limits.max_body": "much"},
			want: `--limits-max-body: cannot read "much" as a size: expected for example 1MiB, 10MB or a number of bytes`,
		},
		"meaning in a variable": {
			environ: []string{"BATCHD_LISTEN=8080"},
			want:    `BATCHD_LISTEN: cannot read "8080" as an address: expected host:port, for example 127.0.0.1:8080`,
		},
		"mistyped variable": {
			environ: []string{"BATCHD_LISTN=127.0.0.1:1"},
			want:    `BATCHD_LISTN: unknown variable: did you mean BATCHD_LISTEN?`,
		},
		"port": {
			environ: []string{"BATCHD_PORT=9090"},
			want:    "BATCHD_PORT: unknown variable: to listen on the port 9090, set BATCHD_LISTEN=:9090, or BATCHD_LISTEN=127.0.0.1:9090 for this machine alone",
		},
		"port of a worker": {
			environ: []string{"BATCHD_WORKER_PORT=9090"},
			want:    "BATCHD_WORKER_PORT: unknown variable: to listen on the port 9090, set BATCHD_WORKER_LISTEN=:9090, or BATCHD_WORKER_LISTEN=127.0.0.1:9090 for this machine alone",
		},
		"host": {
			environ: []string{"BATCHD_HOST=0.0.0.0"},
			want:    "BATCHD_HOST: unknown variable: set BATCHD_LISTEN, for example to 127.0.0.1:8080",
		},
		"host of redis": {
			environ: []string{"BATCHD_REDIS_HOST=redis"},
			want:    "BATCHD_REDIS_HOST: unknown variable: set BATCHD_REDIS_URL, for example to redis://redis:6379/0",
		},
		"variable of nothing": {
			environ: []string{"BATCHD_MAKE_COFFEE=now", "BATCHD_TARGETS_0_NAME="},
			want:    `BATCHD_MAKE_COFFEE: unknown variable`,
		},
		"list in a variable": {
			environ: []string{"BATCHD_WEBHOOKS_PORTS=80"},
			want:    "BATCHD_WEBHOOKS_PORTS: unknown variable: webhooks.ports can only be set in the configuration file",
		},
		"item of a list in a variable": {
			environ: []string{"BATCHD_TARGETS_0_NAME=crm"},
			want:    "BATCHD_TARGETS_0_NAME: unknown variable: targets can only be set in the configuration file; BATCHD_TARGET is the URL of a single target",
		},
		"file with keys": {
			environ: []string{"BATCHD_KEYS_FILE=keys.yaml"},
			want:    "BATCHD_KEYS_FILE: unknown variable: set BATCHD_API_KEYS_FILE to the name of a file",
		},
		"keys": {
			environ: []string{"BATCHD_API_KEYS=keys.yaml"},
			want:    "BATCHD_API_KEYS: unknown variable: set BATCHD_API_KEYS_FILE to the name of a file",
		},
		"certificate": {
			environ: []string{"BATCHD_TLS_CERT=a.crt"},
			want:    "BATCHD_TLS_CERT: unknown variable: set BATCHD_SERVER_TLS_CERT_FILE to the name of a file",
		},
		"key of the certificate": {
			environ: []string{"BATCHD_TLS_KEY_FILE=a.key"},
			want:    "BATCHD_TLS_KEY_FILE: unknown variable: set BATCHD_SERVER_TLS_KEY_FILE to the name of a file",
		},
		"log": {
			environ: []string{"BATCHD_LOG=debug"},
			want:    "BATCHD_LOG: unknown variable: set BATCHD_LOG_LEVEL, for example to debug",
		},
		"debug": {
			environ: []string{"BATCHD_DEBUG=1"},
			want:    "BATCHD_DEBUG: unknown variable: set BATCHD_LOG_LEVEL, for example to debug",
		},
		"variable like several": {
			environ: []string{"BATCHD_AUTH_CERTS=a"},
			want:    "BATCHD_AUTH_CERTS: unknown variable",
		},
		"mistyped flag": {
			set:  map[string]string{"redis.ulr": "embedded"},
			want: `--redis-ulr: unknown setting: did you mean redis.url?`,
		},
		"flag of a list": {
			set:  map[string]string{"endpoints": "/crm/batch"},
			want: `--endpoints: unknown setting`,
		},
		"target": {
			set:  map[string]string{"target": "ftp://user:hunter2@127.0.0.1"},
			want: `--target: the base URL's scheme is "ftp": expected http or https`,
		},
		"seal keys": {
			environ: []string{"BATCHD_SEAL_KEYS=a:" + key + ",b:aHVudGVyMg==, a:" + key},
			want: "BATCHD_SEAL_KEYS: key \"b\": the key has 7 bytes: expected 32: make one with: openssl rand -base64 32\n" +
				"BATCHD_SEAL_KEYS: key \"a\" appears twice: the other is seal.keys[0]",
		},
		"seal keys without ids": {
			environ: []string{"BATCHD_SEAL_KEYS=a:" + key + "," + key},
			want:    "BATCHD_SEAL_KEYS: cannot read key 2: expected id:base64, several with commas between",
		},
		"seal key and id swapped": {
			environ: []string{"BATCHD_SEAL_KEYS=" + strings.TrimRight(key, "=") + ":2026"},
			want: "BATCHD_SEAL_KEYS: key 1 has no usable id: expected 1 to 32 letters, digits, ., - or _\n" +
				"BATCHD_SEAL_KEYS: key 1: the key has 3 bytes: expected 32: make one with: openssl rand -base64 32",
		},
		"redis with a password": {
			environ: []string{"BATCHD_REDIS_URL=redis://:hunter2@localhost:notaport/hunter2"},
			want:    "BATCHD_REDIS_URL: the URL has no usable host and port: expected embedded, or a URL such as redis://localhost:6379/0",
		},
		"both, and the flag's stands": {
			environ: []string{"BATCHD_LIMITS_MAX_WAIT=5h"},
			set:     map[string]string{"limits.max_wait": "6h"},
			want:    "--limits-max-wait: the duration is 6h: expected 0s to 1h",
		},
		"passthrough from a flag": {
			environ: []string{"BATCHD_REDIS_URL=redis://localhost"},
			set:     map[string]string{"auth.modes": "passthrough"},
			want:    "--auth-modes: passthrough stores the callers' credentials in Redis: set seal.keys, which encrypts them",
		},
		"two ways to name keys": {
			environ: []string{"BATCHD_SEAL_KEYS=a:" + key},
			set:     map[string]string{"seal.file": "keys.txt"},
			want:    "--seal-file: the keys are set already, in BATCHD_SEAL_KEYS: set seal.keys or seal.file",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := config.Load(config.Options{File: write(t, oneTarget), Environ: tt.environ, Set: tt.set})
			require.EqualError(t, err, tt.want)
			requireNoSecret(t, err.Error())
		})
	}
}

func TestSecretsCanComeFromFiles(t *testing.T) {
	t.Parallel()
	values := map[string]string{
		"redis.url": "redis://:hunter2@h:1", "redis.password": " hunter2 #: ", "auth.sessions.client_secret": "s3cret", "webhooks.secret": "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
		"webhooks.previous_secret": "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
		"seal.keys":                "a:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\nb:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
	}
	for _, s := range config.Settings() {
		value, ok := values[s.Path]
		require.Equal(t, ok, s.EnvFile != "", s.Path)
		require.False(t, s.Secret && !ok, s.Path)
		if !ok {
			continue
		}
		require.Equal(t, s.Env+"_FILE", s.EnvFile)
		whole := oneTarget
		if s.Path == "webhooks.previous_secret" { // it needs the secret that replaces it
			whole += "webhooks: {secret: whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD}\n"
		}
		for _, end := range []string{"", "\n", "\r\n"} {
			secret := write(t, value+end)
			c := load(t, config.Options{File: write(t, whole), Environ: []string{s.EnvFile + "=" + secret}})
			require.Contains(t, c.Summary(), "# "+s.EnvFile+"\n")
			requireNoSecret(t, c.Summary())
			if s.Path == "redis.password" {
				require.Equal(t, value, c.Redis.Password.Reveal(), "one line break is cut, and nothing else")
			}
			_, err := config.Load(config.Options{File: write(t, whole), Environ: []string{s.EnvFile + "=" + secret, s.Env + "=" + value}})
			require.EqualError(t, err, s.EnvFile+": "+s.Env+" is set, too: set only one of them")
			load(t, config.Options{File: write(t, whole), Environ: []string{s.EnvFile + "=", s.Env + "=" + value}}) // compose passes an empty variable
		}
		for content, want := range map[string]string{"\n": "the file is empty: write the value into it, or unset the variable", "\xff": "not UTF-8"} {
			_, err := config.Load(config.Options{File: write(t, whole), Environ: []string{s.EnvFile + "=" + write(t, content)}})
			require.ErrorContains(t, err, s.EnvFile+": ")
			require.ErrorContains(t, err, want)
		}
		_, err := config.Load(config.Options{File: write(t, whole), Environ: []string{s.EnvFile + "=/nowhere"}})
		require.EqualError(t, err, s.EnvFile+": cannot read the file that it names: no such file or directory")
	}
	two := load(t, config.Options{File: write(t, oneTarget), Environ: []string{"BATCHD_REDIS_PASSWORD_FILE=" + write(t, "a\n\n")}})
	require.Equal(t, "a\n", two.Redis.Password.Reveal())
	_, err := config.Load(config.Options{File: write(t, oneTarget), Environ: []string{"BATCHD_LISTEN_FILE=/x"}})
	require.ErrorContains(t, err, "BATCHD_LISTEN_FILE: unknown variable")
}

func TestFaultOfAnOverrideIsNotBlamedOnTheFile(t *testing.T) {
	t.Parallel()
	file := write(t, oneTarget+"seal:\n  keys: [{id: a, base64: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}]\n")
	_, err := config.Load(config.Options{File: file, Environ: []string{"BATCHD_SEAL_KEYS=a:aHVudGVyMg=="}})
	require.EqualError(t, err, `BATCHD_SEAL_KEYS: key "a": the key has 7 bytes: expected 32: make one with: openssl rand -base64 32`)
}

func TestFaultsOfFileVariablesAndFlagsComeTogether(t *testing.T) {
	t.Parallel()
	file := write(t, "listen: 1\n"+oneTarget+"listn: 2\n")
	_, err := config.Load(config.Options{
		File: file, Environ: []string{"BATCHD_LOG_LEVEL=loud"}, Set: map[string]string{"log.format": "xml"},
	})
	var faults *config.Error
	require.ErrorAs(t, err, &faults)
	require.Equal(t, []config.Fault{
		{File: file, Line: 1, Column: 9, Key: "listen", Detail: `cannot read "1" as an address: expected host:port, for example 127.0.0.1:8080`},
		{File: file, Line: 3, Column: 1, Key: "listn", Detail: "unknown key: did you mean listen?"},
		{File: "--log-format", Key: "log.format", Detail: `unknown value "xml": expected text or json`},
		{File: "BATCHD_LOG_LEVEL", Key: "log.level", Detail: `unknown value "loud": expected debug, info, warn or error`},
	}, faults.Faults)
}

func TestFileThatCannotBeReadIsTheOnlyFault(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	_, err := config.Load(config.Options{File: dir + "/nowhere.yaml"})
	require.EqualError(t, err, dir+"/nowhere.yaml: cannot read the file: no such file or directory")
	_, err = config.Load(config.Options{File: dir})
	require.EqualError(t, err, dir+": cannot read the file: is a directory")
}

func TestNoFileAndNoTarget(t *testing.T) {
	t.Parallel()
	_, err := config.Load(config.Options{})
	require.EqualError(t, err, "targets: there is no target: name one in the file, or give its URL as --target or BATCHD_TARGET")
}

func TestVariableNamesTheFile(t *testing.T) {
	t.Parallel()
	named, flagged := write(t, oneTarget+"listen: 127.0.0.1:1\n"), write(t, oneTarget+"listen: 127.0.0.1:2\n")
	environ := []string{"BATCHD_CONFIG=" + named}
	require.Equal(t, "127.0.0.1:1", load(t, config.Options{Environ: environ}).Listen)
	require.Equal(t, "127.0.0.1:2", load(t, config.Options{Environ: environ, File: flagged}).Listen)
}

func TestForeignAndInjectedVariablesAreIgnored(t *testing.T) {
	t.Parallel()
	c := load(t, config.Options{File: write(t, oneTarget), Environ: []string{
		"HOME=/root", "BATCHD_SERVER=http://127.0.0.1:8080", "BATCHD_TOKEN=hunter2", "batchd_listen=x", "BATCHD_LISTEN=", "BROKEN",
		"BATCHD_SERVICE_HOST=10.0.0.1", "BATCHD_SERVICE_PORT=8080", "BATCHD_SERVICE_PORT_HTTP=8080",
		"BATCHD_PORT=tcp://10.0.0.1:8080", "BATCHD_PORT_8080_TCP=tcp://10.0.0.1:8080", "BATCHD_PORT_8080_TCP_PROTO=tcp",
		"BATCHD_API_SERVICE_HOST=10.0.0.1", "BATCHD_REDIS_PORT_6379_TCP_ADDR=10.0.0.1",
		"BATCHD_REDIS_PORT=tcp://10.0.0.1:6379", "BATCHD_WORKER_PORT=udp://10.0.0.1:1", "BATCHD_NAME=/web/batchd", "BATCHD_1_NAME=/web/batchd_1", "BATCHD_API_NAME=/web/api",
		"BATCHD_ENV_PATH=/bin", "BATCHD_API_ENV_http.proxy=x", "BATCHD_PORT_8080_TCP_START=tcp://10.0.0.1:8080", "BATCHD_PORT_8080_TCP_PORT_START=8080",
		"BATCHD_PORT_8080_TCP_END=tcp://10.0.0.1:8081", "BATCHD_PORT_8080_TCP_PORT_END=8081", "BATCHD_LISTEN_SERVICE_PORT=1", "BATCHD_CONFIG_PORT=sctp://10.0.0.1:1",
	}})
	require.Equal(t, config.Default().Listen, c.Listen)
}

func TestSealFileIsFoundBesideTheConfiguration(t *testing.T) {
	t.Parallel()
	c := load(t, config.Options{File: "testdata/good/seal-file.yaml"})
	require.Len(t, c.Seal.Keys, 2)
	require.Equal(t, "2026-11", c.Seal.Keys[0].ID)
	for i, want := range []string{"0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"} {
		key, err := c.Seal.Keys[i].Bytes()
		require.NoError(t, err)
		require.Equal(t, want, string(key))
	}

	// A file named by a variable is relative to the working directory, as in a shell.
	c = load(t, config.Options{File: write(t, oneTarget), Environ: []string{"BATCHD_SEAL_FILE=testdata/good/seal.keys"}})
	require.Len(t, c.Seal.Keys, 2)
}

func TestPassthroughIsFineWhereNothingIsStoredInClear(t *testing.T) {
	t.Parallel()
	load(t, config.Options{File: write(t, oneTarget+"auth: {modes: [passthrough]}\n")})
	load(t, config.Options{
		File:    write(t, oneTarget+"auth: {modes: [passthrough]}\nredis: {url: redis://localhost}\n"),
		Environ: []string{"BATCHD_SEAL_KEYS=a:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY"},
	})
}

func TestListenAddresses(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"127.0.0.1:0", ":8080", "[::1]:8080", "batchd.internal:65535", "0.0.0.0:80"} {
		load(t, config.Options{File: write(t, oneTarget), Set: map[string]string{"listen": address, "auth.allow_open_listener": "true"}})
	}
	for _, address := range []string{"", "8080", "localhost", "localhost:", "localhost:http", "localhost:65536", "localhost:-1", "localhost:080", "::1:80", "http://localhost:80", "a b:80"} {
		_, err := config.Load(config.Options{File: write(t, oneTarget), Set: map[string]string{"listen": address}})
		require.ErrorContains(t, err, "--listen: ", "%q", address)
	}
}

// Port 0 is for tests, which read the port from the log. In a file it is a mistake.
func TestAFileNamesThePortToListenOn(t *testing.T) {
	t.Parallel()
	for _, file := range []string{"listen: 127.0.0.1:0\n", "worker: {listen: ':0'}\n", "worker:\n  listen: '[::1]:0'\n"} {
		key := "listen"
		if strings.HasPrefix(file, "worker") {
			key = "worker.listen"
		}
		_, err := config.Load(config.Options{File: write(t, oneTarget+file)})
		require.ErrorContains(t, err, key+": the port of ", file)
		require.ErrorContains(t, err, "is 0: expected host:port, for example 127.0.0.1:8080", file)
	}
	load(t, config.Options{File: write(t, oneTarget), Environ: []string{"BATCHD_LISTEN=127.0.0.1:0", "BATCHD_WORKER_LISTEN=:0"}})
	load(t, config.Options{File: write(t, oneTarget), Set: map[string]string{"listen": "127.0.0.1:0", "worker.listen": ":0"}})
	load(t, config.Options{File: write(t, oneTarget+"listen: ':0'\n"), Set: map[string]string{"listen": "[::1]:0"}})
}

func TestAListenerForOthersNeedsAuthenticationOrConsent(t *testing.T) {
	t.Parallel()
	for _, address := range []string{":8080", "0.0.0.0:8080", "[::]:8080", "10.1.2.3:8080", "batchd.internal:80", "[fe80::1%eth0]:80", "128.0.0.1:0", "localhost.example:1"} {
		_, err := config.Load(config.Options{File: write(t, oneTarget), Environ: []string{"BATCHD_LISTEN=" + address}})
		require.EqualError(t, err, "BATCHD_LISTEN: "+address+" is not a loopback address, and without authentication every client that reaches it may submit batches "+
			"and read all results: set auth.modes to keys or passthrough, listen on 127.0.0.1, or accept this with auth.allow_open_listener: true")
		load(t, config.Options{File: write(t, oneTarget+"auth: {modes: [passthrough]}\n"), Environ: []string{"BATCHD_LISTEN=" + address}})
		load(t, config.Options{File: write(t, oneTarget), Environ: []string{"BATCHD_LISTEN=" + address, "BATCHD_AUTH_ALLOW_OPEN_LISTENER=true"}})
	}
	for _, address := range []string{"127.0.0.1:8080", "127.9.9.9:80", "[::1]:80", "[::ffff:127.0.0.1]:80", "localhost:80", "LocalHost:80"} {
		load(t, config.Options{File: write(t, oneTarget), Environ: []string{"BATCHD_LISTEN=" + address}})
	}
	for _, address := range []string{"8081", "127.0.0.1:0", "a b:1", "127.0.0.1:99999"} {
		_, err := config.Load(config.Options{File: write(t, oneTarget+"monitor: {listen: \""+address+"\"}\n")})
		require.ErrorContains(t, err, "yaml:2: monitor.listen: ", address)
	}
	_, err := config.Load(config.Options{File: write(t, oneTarget+"listen: 0.0.0.0:8080\n")})
	require.ErrorContains(t, err, "yaml:2: listen: 0.0.0.0:8080 is not a loopback address")
}

func TestHostsAreNames(t *testing.T) {
	t.Parallel()
	load(t, config.Options{File: write(t, oneTarget+"auth: {hosts: [a, A.example.com, 'b:8080', '[::1]:80', 10.0.0.1]}\n")})
	c := load(t, config.Options{File: write(t, oneTarget), Environ: []string{"BATCHD_AUTH_HOSTS=a,b:1"}})
	require.Equal(t, []string{"a", "b:1"}, c.Auth.Hosts)
	for _, host := range []string{"http://a", "a/b", "*", "*.example.com", "a:", "a:0", "::1", "a b"} {
		_, err := config.Load(config.Options{File: write(t, oneTarget+"auth: {hosts: [ok, '"+host+"']}\n")})
		require.ErrorContains(t, err, `yaml:2: auth.hosts[1]: cannot read "`+host+`" as a host`)
	}
}

func TestAnEndpointHasNoEmptySegment(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/crm//batch", "/crm/batch//", "/crm/:x//y", "/crm///y"} {
		_, err := config.Load(config.Options{File: write(t, oneTarget+"endpoints: [{path: '"+path+"'}]\n")})
		require.ErrorContains(t, err, `endpoints[0].path: the path "`+path+`" holds an empty segment`)
	}
	load(t, config.Options{File: write(t, oneTarget+"endpoints: [{path: /crm/batch/}]\n")})
}

func TestRedisURLs(t *testing.T) {
	t.Parallel()
	for _, u := range []string{
		"embedded", "redis://localhost", "redis://localhost:6379/0", "rediss://user:p%40ss@redis.internal:6380/1?dial_timeout=3",
		"redis+sentinel://one:26379,two:26379/0?master=m", "rediss+sentinel://one?master=m", "redis+cluster://one:1,two:2",
		"rediss+cluster://[::1]:1,[::2]:2", "redis://:p@ss@localhost",
	} {
		c := load(t, config.Options{File: write(t, oneTarget), Set: map[string]string{"redis.url": u}})
		require.Equal(t, u, c.Redis.URL.Reveal())
	}
	for _, u := range []string{
		"", "localhost:6379", "Embedded", "http://localhost", "redis:localhost", "redis://", "redis:///0", "redis://user:hunter2@",
		"redis://localhost:x", "redis://localhost:65536", "redis+sentinel://one,,two", "redis://::1", "unix:///redis.sock", "redis-sentinel://one",
		"redis://localhost/x", "redis://localhost/0/1", "redis://localhost/-", "redis://localhost?db=x", "redis://localhost?dial_timeout=x", "redis://localhost?no_option=1",
		"redis://:hun/ter2@localhost", "redis://:hun%zzter2@localhost", "redis+sentinel://one", "redis+sentinel://one/x?master=m", "redis+sentinel://one?master_name=m",
		"redis+cluster://one/1", "redis+cluster://one:1?addr=two:2",
	} {
		_, err := config.Load(config.Options{File: write(t, oneTarget), Set: map[string]string{"redis.url": u}})
		require.ErrorContains(t, err, "--redis-url: ", "%q", u)
		requireNoSecret(t, err.Error())
	}
}

func TestLogLevels(t *testing.T) {
	t.Parallel()
	for _, level := range []string{"debug", "info", "warn", "error"} {
		require.Equal(t, strings.ToUpper(level), config.LogLevel(level).Level().String())
	}
}
