package config

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func FuzzKeysFile(f *testing.F) {
	f.Add([]byte("keys:\n  - {name: a, scopes: [read], secrets: [{sha256: " + strings.Repeat("a", 64) + "}]}"))
	f.Add([]byte("keys: [{name: a, owner: b, targets: [], webhook_hosts: ['*'], limits: {rate: 1/s, concurrent: 2}, expires: 2027-01-31T00:00:00Z}]"))
	f.Add([]byte("keys: {"))
	f.Fuzz(func(t *testing.T, source []byte) {
		if len(source) > 4<<10 {
			return
		}
		keys, err := parseKeys("keys.yaml", source)
		if err != nil {
			require.Empty(t, keys)
			for line := range strings.Lines(err.Error()) {
				require.True(t, strings.HasPrefix(line, "keys.yaml"), "%q", line)
			}
			return
		}
		for _, k := range keys {
			require.Regexp(t, keyName, k.Name)
			require.NotEmpty(t, k.Owner)
			require.NotEmpty(t, k.Scopes)
			require.False(t, len(k.Secrets) == 0 && k.Revoked.IsZero())
		}
	})
}

// FuzzFaultsRepeatNoSecret writes a secret in any surroundings to the places of secrets.
func FuzzFaultsRepeatNoSecret(f *testing.F) {
	for _, around := range [][2]string{{"", ""}, {"{", "}"}, {"[", "]"}, {`"`, ""}, {"'", "'"}, {"&", " x"}, {"*", ""}, {"!!", " x"}, {"x: ", ""}, {"\n  - ", ": 1"}, {"|\n  ", "\n\t"}, {"? ", ""}, {"%", ""}, {"id:", ""}, {"\n", ":"}} {
		f.Add(around[0], around[1])
	}
	const secret = "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY"
	f.Fuzz(func(t *testing.T, before, after string) {
		if len(before)+len(after) > 1<<10 {
			return
		}
		for _, start := range []string{"webhooks:\n  secret: ", "seal:\n  keys: ", "seal:\n  keys:\n  - id: one\n    base64: ", "redis:\n  password: ", "redis:\n  url: redis://:"} {
			l := newLoader()
			l.places[""] = place{file: "batchd.yaml"}
			if l.readSource([]byte("targets: [{name: a, base_url: http://h}]\n" + start + before + secret + after + "\n")) {
				l.validate()
			}
			if len(l.faults) == 0 {
				require.NotContains(t, l.cfg.Summary(), secret, start)
			}
			for _, fault := range l.faults {
				require.NotContains(t, fault.String(), secret[:20], start)
			}
		}
	})
}

func FuzzSealKeys(f *testing.F) {
	f.Add("one:QUJD,two:QUJD")
	f.Add("one:QUJD\ntwo:QUJD\n")
	f.Add("::,")
	f.Fuzz(func(t *testing.T, text string) {
		keys, err := parseSealKeys(text)
		if err != nil {
			require.Empty(t, keys)
			return
		}
		require.Len(t, keys, 1+strings.Count(text, ",")+strings.Count(text, "\n"))
		var out bytes.Buffer
		for i, k := range keys {
			if i > 0 {
				out.WriteByte(',')
			}
			out.WriteString(k.ID + ":" + k.Base64.Reveal())
		}
		again, err := parseSealKeys(out.String())
		require.NoError(t, err)
		require.Equal(t, keys, again)
	})
}
