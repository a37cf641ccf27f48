package config

import (
	"fmt"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/batchd/batchd/api"
	"github.com/batchd/batchd/internal/apikey"
	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/setting"
	"github.com/batchd/batchd/internal/webhook"
)

// keysDocument is the content of a file with keys.
type keysDocument struct {
	Keys []batch.Key `yaml:"keys"`
}

// parseKeys reads the content of the file, or returns all its faults.
func parseKeys(path string, source []byte) ([]batch.Key, error) {
	l := &loader{cfg: Default(), ledger: ledger{places: map[string]place{"": {file: path}}}}
	doc := new(keysDocument)
	if !l.readInto(source, reflect.ValueOf(doc).Elem()) {
		return nil, l.err()
	}
	check := setting.NewChecker(l)
	first := map[string]string{}
	for i := range doc.Keys {
		key, at := &doc.Keys[i], index("keys", i)
		if key.Owner == "" {
			key.Owner = key.Name
		}
		CheckKey(check.In(at), key)
		if other, taken := first[key.Name]; taken {
			check.Faultf(at+".name", "the name is taken by %s", check.Where(other))
		}
		first[key.Name] = at + ".name"
	}
	if err := l.err(); err != nil {
		return nil, err
	}
	return doc.Keys, nil
}

var (
	keyName   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	hexSHA256 = regexp.MustCompile(`^[0-9a-f]{64}$`)
	keyScopes = []string{"submit", "read", "cancel", "admin"}
)

// CheckKey reports the faults of a key.
func CheckKey(c *setting.Checker, key *batch.Key) {
	for field, text := range map[string]string{"name": key.Name, "owner": key.Owner} {
		switch {
		case apikey.InValue(text):
			c.Faultf(field, "the %s looks like a key of batchd: names are no secrets, so choose another", field)
		case !keyName.MatchString(text):
			c.Faultf(field, "the %s %q is not usable: expected 1 to 64 letters, digits, dots, dashes and underscores", field, setting.Clip(text))
		}
	}
	if len(key.Scopes) == 0 {
		c.Faultf("scopes", "there are no scopes: expected one or more of %s", strings.Join(keyScopes, ", "))
	}
	for i, scope := range key.Scopes {
		c.Choice(index("scopes", i), scope, keyScopes)
	}
	for i, host := range key.WebhookHosts {
		if apikey.InValue(host) {
			c.Faultf(index("webhook_hosts", i), "the host looks like a key of batchd: expected one such as hooks.example.com")
			continue
		}
		c.Check(index("webhook_hosts", i), webhook.CheckHost(host))
	}
	c.Int("limits.concurrent", key.Limits.Concurrent, 0, 1_000_000)
	api.CheckQuotas(c.In("quotas"), key.Quotas)
	if len(key.Secrets) == 0 && key.Revoked.IsZero() {
		c.Faultf("secrets", "there is no secret: make the key with batchd keys create")
	}
	for i, s := range key.Secrets {
		if !hexSHA256.MatchString(s.SHA256) {
			c.Faultf(index("secrets", i)+".sha256", "expected the SHA-256 of the key, 64 hexadecimal digits: make the key with batchd keys create")
		}
	}
}

// keysText formats keys as a file.
func keysText(keys []batch.Key) string {
	var b strings.Builder
	b.WriteString("# batchd's own keys: the hashes of their secrets, and what they may do. The commands batchd keys …\n" +
		"# replace this file as a whole; processes read it again when it changes.\nkeys:\n")
	list := func(name string, texts []string) {
		if texts == nil { // which means all, where an empty list means none
			return
		}
		quoted := make([]string, len(texts))
		for i, text := range texts {
			quoted[i] = strconv.Quote(text)
		}
		fmt.Fprintf(&b, "    %s: [%s]\n", name, strings.Join(quoted, ", "))
	}
	at := func(name string, when time.Time) {
		if !when.IsZero() {
			fmt.Fprintf(&b, "    %s: %s\n", name, when.UTC().Format(time.RFC3339))
		}
	}
	for _, k := range keys {
		fmt.Fprintf(&b, "  - name: %q\n    owner: %q\n", k.Name, k.Owner)
		list("scopes", k.Scopes)
		list("targets", k.Targets)
		list("webhook_hosts", k.WebhookHosts)
		if k.Limits.Rate.N > 0 || k.Limits.Concurrent > 0 {
			b.WriteString("    limits:\n")
			if k.Limits.Rate.N > 0 {
				fmt.Fprintf(&b, "      rate: %s\n", k.Limits.Rate)
			}
			if k.Limits.Concurrent > 0 {
				fmt.Fprintf(&b, "      concurrent: %d\n", k.Limits.Concurrent)
			}
		}
		if q := k.Quotas; q != (batch.Quotas{}) {
			b.WriteString("    quotas:\n")
			for _, one := range []struct {
				name string
				n    int64
				text string
			}{
				{"open_batches", int64(q.OpenBatches), strconv.Itoa(q.OpenBatches)},
				{"stored_bytes", q.StoredBytes, setting.ByteSize(q.StoredBytes).String()},
				{"upload_rate", q.UploadRate, setting.ByteSize(q.UploadRate).String()},
				{"upload_burst", q.UploadBurst, setting.ByteSize(q.UploadBurst).String()},
			} {
				if one.n != 0 {
					fmt.Fprintf(&b, "      %s: %s\n", one.name, one.text)
				}
			}
		}
		at("created", k.Created)
		at("expires", k.Expires)
		at("revoked", k.Revoked)
		if len(k.Secrets) > 0 {
			b.WriteString("    secrets:\n")
		}
		for _, s := range k.Secrets {
			fmt.Fprintf(&b, "      - sha256: %s\n", s.SHA256)
			if !s.Until.IsZero() {
				fmt.Fprintf(&b, "        until: %s\n", s.Until.UTC().Format(time.RFC3339))
			}
		}
	}
	return b.String()
}
