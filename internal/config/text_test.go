package config_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/config"
)

func TestAFileThatIsNotUTF8IsRefusedWithItsPlace(t *testing.T) {
	t.Parallel()
	for source, want := range map[string]string{
		oneTarget + "log:\n  level: M\xfcller\n":      ":3: column 11: the byte 0xfc is not UTF-8: save the text as UTF-8",
		oneTarget + "# M\xfcller\n":                   ":2: column 4: the byte 0xfc is not UTF-8: save the text as UTF-8",
		"\xff\xfet\x00a\x00r\x00g\x00e\x00t\x00s\x00": ":1: column 1: the text is in UTF-16: save it as UTF-8",
		"\x00t\x00a\x00r\x00g\x00e\x00t\x00s":         ":1: column 1: the text is in UTF-16: save it as UTF-8",
		"listen: 127.0.0.1:1\n\ufeff" + oneTarget:     ":2: column 1: there is a byte order mark (U+FEFF) here, which is allowed at the very start only: remove it (a file that was appended to another leaves one)",
		"\ufeff\ufeff" + oneTarget:                    ":1: column 4: there is a byte order mark (U+FEFF) here, which is allowed at the very start only: remove it (a file that was appended to another leaves one)",
	} {
		file := write(t, source)
		_, err := config.Load(config.Options{File: file})
		require.EqualError(t, err, file+want)
	}
	require.Equal(t, "crm", load(t, config.Options{File: write(t, "\ufeff"+oneTarget)}).Targets[0].Name)
	require.Equal(t, "crm", load(t, config.Options{File: write(t, "\ufeff"+strings.ReplaceAll(oneTarget, "\n", "\r\n"))}).Targets[0].Name)
}

func TestASealFileThatIsNotUTF8IsRefusedWithItsPlace(t *testing.T) {
	t.Parallel()
	const key = "a:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n"
	for source, want := range map[string]string{
		"# M\xfcller\n" + key: ":1: column 4: the byte 0xfc is not UTF-8: save the text as UTF-8",
		"\xff\xfea\x00:\x00":  ":1: column 1: the text is in UTF-16: save it as UTF-8",
		key + "\ufeff" + key:  ":2: column 1: there is a byte order mark (U+FEFF) here",
		"\ufeff" + key:        "",
	} {
		file := filepath.Join(t.TempDir(), "keys")
		require.NoError(t, os.WriteFile(file, []byte(source), 0o600))
		c, err := config.Load(config.Options{File: write(t, oneTarget+"seal: {file: "+file+"}\n")})
		if want == "" {
			require.NoError(t, err)
			require.Equal(t, "a", c.Seal.Keys[0].ID)
			continue
		}
		require.ErrorContains(t, err, file+want)
	}
}

func TestOverridesThatAreNotUTF8AreRefusedByName(t *testing.T) {
	t.Parallel()
	file := write(t, oneTarget)
	for _, s := range config.Settings() {
		_, err := config.Load(config.Options{File: file, Environ: []string{s.Env + "=hunter2\xfc"}})
		require.EqualError(t, err, s.Env+": the value holds the byte 0xfc, which is not UTF-8: set it from a terminal or a file in UTF-8")
		_, err = config.Load(config.Options{File: file, Set: map[string]string{s.Path: "hunter2\xfc"}})
		require.EqualError(t, err, "--"+s.Flag+": the value holds the byte 0xfc, which is not UTF-8: set it from a terminal or a file in UTF-8")
	}
	_, err := config.Load(config.Options{Environ: []string{"BATCHD_TARGET=http://x/\xfc"}})
	require.EqualError(t, err, "BATCHD_TARGET: the value holds the byte 0xfc, which is not UTF-8: set it from a terminal or a file in UTF-8",
		"the target is not missing as well")
}

// A value that is present but empty is refused, or means the default. It never means
// something that would be unsafe if a user overlooked it.
func TestEmptyValuesAreRefusedOrMeanTheDefault(t *testing.T) {
	t.Parallel()
	target := func(more string) string {
		return "targets: [{name: crm, base_url: 'http://127.0.0.1:9000', " + more + "}]\n"
	}
	for source, want := range map[string]string{
		oneTarget + "seal: {}\nlimits: {}\nlog: {}\nredis: {}\nauth: {}\nwebhooks: {}\nworker: {}\nendpoints: []\n": "",
		oneTarget + "seal:\nlimits:\nlog: ~\nredis: null\nauth:\nwebhooks:\nworker:\nendpoints:\n":                  "",
		oneTarget + "seal: {file: }\nwebhooks: {secret: }\n":                                                        "",
		target("retry: {}"):             "",
		target("deny: []"):              "",
		target("allow: "):               "",
		target("transactions: "):        "",
		target("verify: "):              "",
		target("retry: {statuses: []}"): "",

		target("allow: []"):                                 "targets[0].allow: the list is empty: fill it in, or leave the key out, which allows all",
		oneTarget + "seal: {keys: []}\n":                    "seal.keys: the list is empty: fill it in, or leave the key out, which stores in clear",
		oneTarget + "seal: {file: ''}\n":                    "seal.file: the value is empty",
		oneTarget + "seal: {accept_clear_until: soon}\n":    `seal.accept_clear_until: cannot read "soon" as a date: expected for example 2027-01-31`,
		oneTarget + "webhooks: {secret: \"\"}\n":            "webhooks.secret: the value is empty",
		oneTarget + "redis: {url: ''}\n":                    "redis.url: the value is neither embedded nor a URL",
		oneTarget + "listen: ''\n":                          "listen: the value is empty",
		oneTarget + "worker: {listen: ''}\n":                "worker.listen: the value is empty",
		oneTarget + "log: {level: ''}\n":                    `log.level: unknown value ""`,
		oneTarget + "auth: {modes: ['']}\n":                 `auth.modes[0]: unknown value ""`,
		oneTarget + "limits: {rate: ''}\n":                  "limits.rate: the value is empty",
		oneTarget + "limits: {max_body: ''}\n":              "limits.max_body: cannot read",
		oneTarget + "limits: {max_actions: ''}\n":           "limits.max_actions: cannot read",
		oneTarget + "limits: {expires_in: ''}\n":            "limits.expires_in: cannot read",
		oneTarget + "endpoints: [{}]\n":                     "endpoints[0].path: the path is missing",
		oneTarget + "endpoints: [{path: ''}]\n":             "endpoints[0].path: the value is empty",
		oneTarget + "endpoints: [{path: /a, target: ''}]\n": "endpoints[0].target: the value is empty",
		target("proxy: ''"):                                 "targets[0].proxy: the value is empty",
		target("idempotency_key_header: ''"):                "targets[0].idempotency_key_header: the value is empty",
		target("allow: [{method: '', path: /}]"):            "targets[0].allow[0].method: the value is empty",
		target("verify: {}"):                                "targets[0].verify.method: the method is missing: expected GET or HEAD",
		target("verify: {method: GET}"):                     "targets[0].verify.path: the path is missing: expected one that starts with /",
		target("verify: {method: '', path: /me}"):           "targets[0].verify.method: the value is empty",
		target("transactions: {}"):                          "targets[0].transactions.id: expected either a pointer",
		"targets: [{name: '', base_url: ''}]\n":             "targets[0].base_url: the value is empty",
	} {
		_, err := config.Load(config.Options{File: write(t, source)})
		if want == "" {
			require.NoError(t, err, source)
		} else {
			require.ErrorContains(t, err, want, source)
		}
	}
	for _, s := range config.Settings() {
		_, err := config.Load(config.Options{File: write(t, oneTarget), Environ: []string{s.Env + "="}})
		require.NoError(t, err, "an empty variable is none")
		_, err = config.Load(config.Options{File: write(t, oneTarget), Set: map[string]string{s.Path: ""}})
		require.ErrorContains(t, err, "--"+s.Flag+": ", "an empty flag is none of the defaults")
	}
}

func TestPortsThatNobodyListensOnAreRefused(t *testing.T) {
	t.Parallel()
	for _, port := range []string{"0", "65536", "99999999999999999999"} {
		for source, key := range map[string]string{
			"targets: [{name: crm, base_url: 'http://h:" + port + "/x'}]\n":                        "targets[0].base_url: the port of the URL is " + port + ": expected 1 to 65535",
			"targets: [{name: crm, base_url: 'http://h', proxy: 'http://h:" + port + "'}]\n":       "targets[0].proxy: the port of the URL is " + port + ": expected 1 to 65535",
			"targets: [{name: crm, base_url: 'http://h', proxy: 'socks5://[::1]:" + port + "'}]\n": "targets[0].proxy: the port of the URL is " + port + ": expected 1 to 65535",
			oneTarget + "redis: {url: 'redis://h:" + port + "'}\n":                                 "redis.url: the URL has no usable host and port",
			oneTarget + "redis: {url: 'redis+sentinel://a:1,h:" + port + "/0?master_name=m'}\n":    "redis.url: the URL has no usable host and port",
			oneTarget + "redis: {url: 'redis+cluster://a:1?addr=b:2&addr=h:" + port + "'}\n":       "redis.url: the URL has no usable host and port",
		} {
			_, err := config.Load(config.Options{File: write(t, source)})
			require.ErrorContains(t, err, key)
		}
	}
	for _, source := range []string{"listen: 'h:65536'\n", "worker: {listen: 'h:65536'}\n"} {
		_, err := config.Load(config.Options{File: write(t, oneTarget+source)})
		require.ErrorContains(t, err, "is not a number up to 65535")
	}
	load(t, config.Options{File: write(t, "targets: [{name: crm, base_url: 'http://h:65535', proxy: 'http://h:1'}]\n")})
}

func TestNumbersBeyondAllMeasureGetASensibleError(t *testing.T) {
	t.Parallel()
	const huge = "99999999999999999999"
	for source, want := range map[string]string{
		"limits: {max_actions: " + huge + "}\n":  `limits.max_actions: the number "` + huge + `" is too large`,
		"limits: {max_body: " + huge + "}\n":     `limits.max_body: cannot read "` + huge + `" as a size: it is out of range`,
		"limits: {max_body: 9999999999999GiB}\n": `limits.max_body: cannot read "9999999999999GiB" as a size: it is out of range`,
		"limits: {expires_in: " + huge + "h}\n":  `limits.expires_in: the duration "` + huge + `h" is out of range`,
		"limits: {rate: " + huge + "/s}\n":       `limits.rate: cannot read "` + huge + `/s" as a rate`,
		"worker: {drain: 9999999999h}\n":         `worker.drain: the duration "9999999999h" is out of range`,
	} {
		_, err := config.Load(config.Options{File: write(t, oneTarget+source)})
		require.ErrorContains(t, err, want)
	}
}
