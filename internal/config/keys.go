package config

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/batchd/batchd/internal/apikey"
	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/setting"
)

// KeysFile keeps batchd's own keys in a YAML file. It implements [batch.KeyStore]. The commands replace the
// file as a whole, so a reader never sees a half of it.
type KeysFile struct {
	// Path is the path of the file.
	Path string
}

var _ batch.KeyStore = (*KeysFile)(nil)

// keysDocument is the content of the file.
type keysDocument struct {
	Keys []batch.Key `yaml:"keys"`
}

// Keys implements [batch.KeySource]. The version is the hash of the file.
func (f *KeysFile) Keys(_ context.Context, version string) ([]batch.Key, string, bool, error) {
	source, err := os.ReadFile(f.Path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, "", false, fmt.Errorf("read the keys: %w", err)
	}
	sum := sha256.Sum256(source)
	now := hex.EncodeToString(sum[:])
	if now == version {
		return nil, now, false, nil
	}
	keys, err := parseKeys(f.Path, source)
	return keys, now, err == nil, err
}

// load reads the file. A file that does not exist has no keys.
func (f *KeysFile) load() ([]batch.Key, error) {
	source, err := os.ReadFile(f.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", f.Path, withoutPath(err))
	}
	return parseKeys(f.Path, source)
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
	keyName    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	hexSHA256  = regexp.MustCompile(`^[0-9a-f]{64}$`)
	keyScopes  = []string{"submit", "read", "cancel"}
	hostSyntax = regexp.MustCompile(`^[A-Za-z0-9*:\[\]][A-Za-z0-9.*:\[\]-]{0,252}$`)
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
		if !hostSyntax.MatchString(host) {
			c.Faultf(index("webhook_hosts", i), "%q is not a host name", setting.Clip(host))
		}
	}
	c.Int("limits.concurrent", key.Limits.Concurrent, 0, 1_000_000)
	if len(key.Secrets) == 0 && key.Revoked.IsZero() {
		c.Faultf("secrets", "there is no secret: make the key with batchd keys create")
	}
	for i, s := range key.Secrets {
		if !hexSHA256.MatchString(s.SHA256) {
			c.Faultf(index("secrets", i)+".sha256", "expected the SHA-256 of the key, 64 hexadecimal digits: make the key with batchd keys create")
		}
	}
}

// ChangeKey implements [batch.KeyStore]. A lock beside the file keeps changes at the same time apart.
func (f *KeysFile) ChangeKey(_ context.Context, name string, change func(*batch.Key) (*batch.Key, error)) error {
	lock, err := os.OpenFile(f.Path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("lock the keys: %w", err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("lock the keys: %w", err)
	}
	keys, err := f.load()
	if err != nil {
		return err
	}
	i := slices.IndexFunc(keys, func(k batch.Key) bool { return k.Name == name })
	var key *batch.Key
	if i >= 0 {
		key = &keys[i]
	}
	if key, err = change(key); err != nil {
		return err
	}
	if i < 0 {
		keys = append(keys, *key)
	} else {
		keys[i] = *key
	}
	return f.write(keys)
}

// write replaces the file.
func (f *KeysFile) write(keys []batch.Key) (err error) {
	next, err := os.CreateTemp(filepath.Dir(f.Path), ".keys-*") // only its owner may read it
	if err != nil {
		return fmt.Errorf("write the keys: %w", err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(next.Name()) // the first error says more
		}
	}()
	if old, err := os.Stat(f.Path); err == nil {
		if err := next.Chmod(old.Mode().Perm()); err != nil {
			return fmt.Errorf("write the keys: %w", err)
		}
	}
	_, err = next.WriteString(keysText(keys))
	if err = errors.Join(err, next.Sync(), next.Close()); err != nil {
		return fmt.Errorf("write the keys: %w", err)
	}
	if err := os.Rename(next.Name(), f.Path); err != nil {
		return fmt.Errorf("write the keys: %w", err)
	}
	return nil
}

// keysText formats keys as a file.
func keysText(keys []batch.Key) string {
	var b strings.Builder
	b.WriteString("# batchd's own keys: the hashes of their secrets, and what they may do. The commands batchd keys …\n" +
		"# replace this file as a whole; processes read it again when it changes.\nkeys:\n")
	list := func(name string, texts []string) {
		if len(texts) == 0 {
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
