package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"github.com/batchd/batchd/api/auth"
	"github.com/batchd/batchd/internal/apikey"
	"github.com/batchd/batchd/internal/audit"
	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/config"
	"github.com/batchd/batchd/internal/setting"
	"github.com/batchd/batchd/queue"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/seal"
)

func newKeysCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "keys",
		Short: "Make, list and revoke the keys by which callers authenticate",
		Long: `Make, list and revoke batchd's own keys, which auth.modes: [keys] asks for. Keys are in
Redis or, with auth.keys_file, in a file. These commands read the same configuration
as the server. Only a hash of a key's secret is stored: a key is shown once, when it
is made. Changes take effect in all processes within 5 s.`,
	}
	cmd.AddCommand(newKeysCreateCmd(), newKeysListCmd(), newKeysRevokeCmd(), newKeysRotateCmd())
	return cmd
}

// keyring selects where a command finds the keys.
type keyring struct{ config, file string }

func (k *keyring) flags(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&k.config, "config", "c", "", "the configuration `file` (or BATCHD_CONFIG)")
	cmd.Flags().StringVar(&k.file, "keys-file", "", "the `file` with the keys (or BATCHD_API_KEYS_FILE); with it, the configuration is not read")
}

// change calls do, which changes a key, with the keys, and records that in the audit log.
func (k *keyring) change(cmd *cobra.Command, event audit.Name, key string, do func(batch.KeyStore) error) error {
	cfg, err := k.load()
	if err != nil {
		return err
	}
	return changeKey(cmd, cfg, audit.Event{Name: event, Key: key}, do)
}

func changeKey(cmd *cobra.Command, cfg *config.Config, event audit.Event, do func(batch.KeyStore) error) error {
	return audited(cmd, cfg.Audit, event, func(*audit.Event) error { return withKeys(cfg, do) })
}

// load returns the configuration. If a flag or a variable names the file of the keys, the configuration is not
// read, and has only that file and the audit log of its variable.
func (k *keyring) load() (*config.Config, error) {
	file := k.file
	if file == "" {
		var err error
		if file, err = config.KeysFileOf(config.Environ()); err != nil {
			return nil, err
		}
	}
	if file == "" {
		cfg, err := config.Load(config.Options{File: k.config, Environ: config.Environ()})
		return cfg, withoutConfiguration(err, k.config, "set --config or BATCHD_CONFIG to that of the server, or name the file with the keys with --keys-file")
	}
	return &config.Config{Auth: auth.Config{KeysFile: file}, Audit: audit.Config{Output: os.Getenv(config.EnvName("audit.output"))}}, nil
}

// withoutConfiguration replaces the fault of a missing target by advice if no configuration file was named: a command
// that sends nothing to a target needs the server's.
func withoutConfiguration(err error, file, advice string) error {
	faults, ok := errors.AsType[*config.Error](err)
	if !ok || file != "" || os.Getenv("BATCHD_CONFIG") != "" {
		return err
	}
	for i, f := range faults.Faults {
		if f.Key == "targets" && f.File == "" {
			faults.Faults[i] = config.Fault{Detail: "there is no configuration: " + advice}
		}
	}
	return err
}

// withKeys calls do with the keys of a configuration.
func withKeys(cfg *config.Config, do func(batch.KeyStore) error) (err error) {
	switch {
	case cfg.Auth.KeysFile != "":
		return do(&config.KeysFile{Path: cfg.Auth.KeysFile})
	case cfg.Redis.URL == rdb.Embedded:
		return errors.New("there is no place for keys: set auth.keys_file or redis.url in the configuration, or name a file with --keys-file")
	}
	store, err := queue.Open(queue.Config{Redis: cfg.Redis, Seal: cfg.Seal.Config})
	if err != nil {
		return fmt.Errorf("open the store: %w", err)
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	if err := do(inRedis{store.Keys, store, cfg.Redis.URL}); errors.As(err, new(*batch.UnavailableError)) {
		return fmt.Errorf("redis at %s does not answer: %w", cfg.Redis.URL, err)
	} else if err != nil {
		return err
	}
	return nil
}

// inRedis are the keys in a Redis.
type inRedis struct {
	batch.KeyStore
	store *queue.Store
	url   rdb.URL
}

// ChangeKey implements [batch.KeyStore]. It changes nothing if the servers could not read the result, because they
// have other seal keys.
func (k inRedis) ChangeKey(ctx context.Context, name string, change func(*batch.Key) (*batch.Key, error)) error {
	if err := k.store.PrepareSeals(ctx); errors.Is(err, seal.ErrSealed) {
		return fmt.Errorf("key %s would not work, because the servers of %s could not read it: %w", name, k.Place(), err)
	} else if err != nil {
		return err
	}
	return k.KeyStore.ChangeKey(ctx, name, change)
}

// Place implements [batch.KeyStore].
func (k inRedis) Place() string { return fmt.Sprintf("Redis at %s", k.url) }

// showKey prints a new key: alone on standard output, for programs, and what to know about it beside it.
func showKey(cmd *cobra.Command, text, note string) error {
	if _, err := fmt.Fprintln(cmd.ErrOrStderr(), note); err != nil {
		return err
	}
	_, err := fmt.Fprintln(cmd.OutOrStdout(), text)
	return err
}

func newKeysCreateCmd() *cobra.Command {
	var (
		ring    keyring
		key     batch.Key
		rate    string
		expires string
		quotas  quotaFlags
	)
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a key, and show it once",
		Example: `  batchd keys create billing --config batchd.yaml
  batchd keys create ci --scope submit,read --target crm --expires-in 90d
  batchd keys create nightly --quota open_batches=100,stored_bytes=64MiB
  batchd keys create slow --quota upload_rate=1MiB,upload_burst=16MiB
  batchd keys create prometheus --scope admin`,
		Args: exactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			now := time.Now().UTC().Truncate(time.Second)
			text := apikey.New()
			key.Name, key.Created, key.Secrets = args[0], now, []batch.KeySecret{{SHA256: apikey.HexHash(text)}}
			if key.Owner == "" {
				key.Owner = key.Name
			}
			if expires != "" {
				life, err := parseDays("--expires-in", expires)
				if err != nil {
					return err
				}
				key.Expires = now.Add(life)
			}
			if err := key.Limits.Rate.UnmarshalText([]byte(rate)); err != nil {
				return fmt.Errorf("--rate: %w", err)
			}
			if err := quotas.apply(&key.Quotas); err != nil {
				return err
			}
			var faults setting.Faults
			config.CheckKey(setting.NewChecker(&faults), &key)
			if err := faults.Err(); err != nil {
				return err
			}
			cfg, err := ring.load()
			if err != nil {
				return err
			}
			if err := checkKeyTargets(cfg, &key); err != nil {
				return err
			}
			if err := checkKeyQuotas(cfg, &key); err != nil {
				return err
			}
			var place string
			event := audit.Event{Name: audit.KeyCreate, Key: key.Name, Owner: auth.KeyOwner(key.Owner), Scopes: key.Scopes}
			if err := changeKey(cmd, cfg, event, func(keys batch.KeyStore) error {
				place = keys.Place()
				return keys.ChangeKey(cmd.Context(), key.Name, func(old *batch.Key) (*batch.Key, error) {
					switch {
					case old == nil:
						return &key, nil
					case !old.Revoked.IsZero():
						return nil, fmt.Errorf("key %s: a key of this name was revoked at %s: choose another name, and --owner %s for the same batches",
							old.Name, old.Revoked.Format(time.RFC3339), old.Owner)
					}
					return nil, fmt.Errorf("key %s: %w: choose another name, or give it a new secret with batchd keys rotate", old.Name, batch.ErrKeyExists)
				})
			}); err != nil {
				return err
			}
			return showKey(cmd, text, fmt.Sprintf("Key %s, owner %s, scopes %s, is in %s. It is shown this once: keep it in a safe place. Servers accept it within 5 s.", key.Name, key.Owner, strings.Join(key.Scopes, ", "), place))
		},
	}
	ring.flags(cmd)
	cmd.Flags().StringVar(&key.Owner, "owner", "", "the `owner` of its batches, which elsewhere is called key:OWNER; keys may share one (default: the name)")
	cmd.Flags().StringSliceVar(&key.Scopes, "scope", []string{string(auth.Submit), string(auth.Read), string(auth.Cancel)}, "what it may do: submit, read, cancel; with admin, to batches of all owners; with commas or repeated")
	cmd.Flags().StringSliceVar(&key.Targets, "target", nil, "a `target` of the configuration that it may send actions to (default: all)")
	cmd.Flags().StringSliceVar(&key.WebhookHosts, "webhook-host", nil, "a `host` that its webhooks may name, without a port, such as hooks.example.com or *.example.com (default: all that the settings allow)")
	cmd.Flags().StringVar(&rate, "rate", "", "the most actions in any window, such as 1500/min (default: limits.rate)")
	cmd.Flags().IntVar(&key.Limits.Concurrent, "concurrent", 0, "the most actions in flight (default: limits.concurrent)")
	cmd.Flags().StringToStringVar((*map[string]string)(&quotas), "quota", nil, "a `quota` of its owner's, such as open_batches=100, stored_bytes=64MiB, upload_rate=1MiB,upload_burst=16MiB, which is at least the rate; with commas or repeated (default: quotas)")
	cmd.Flags().StringVar(&expires, "expires-in", "", "the `time` after which it expires, such as 90d or 12h (default: never)")
	return cmd
}

// checkKeyTargets refuses targets that the configuration does not have. If the configuration was not read, it has
// none.
func checkKeyTargets(cfg *config.Config, key *batch.Key) error {
	var names []string
	for i := range cfg.Targets {
		names = append(names, cfg.Targets[i].Name)
	}
	for _, target := range key.Targets {
		if len(names) > 0 && !slices.Contains(names, target) {
			return fmt.Errorf("--target: there is no target %q in the configuration: expected %s", setting.Clip(target), setting.OneOf(names))
		}
	}
	return nil
}

// checkKeyQuotas refuses quotas that have no effect beside those of the configuration.
func checkKeyQuotas(cfg *config.Config, key *batch.Key) error {
	q := cfg.Quotas.Owner.Override(key.Quotas)
	if key.Quotas.UploadRate == 0 && key.Quotas.UploadBurst == 0 || q.UploadBurst == 0 || q.UploadBurst >= q.UploadRate {
		return nil
	}
	name := func(name string, own, value int64) string {
		if own == 0 {
			name = "the configured quotas." + name
		}
		return name + " " + setting.ByteSize(value).String()
	}
	return fmt.Errorf("--quota: %s is less than %s, so it would have no effect: set both, with a burst of at least a second's rate",
		name("upload_burst", key.Quotas.UploadBurst, q.UploadBurst), name("upload_rate", key.Quotas.UploadRate, q.UploadRate))
}

// checkKeyName refuses a key in the place of its name. An error that repeats the name would show it.
func checkKeyName(name string) error {
	if apikey.InValue(name) {
		return errors.New("this looks like a key of batchd itself: expected the name of a key, which batchd keys list shows")
	}
	return nil
}

// quotaFlags are quotas by their names.
type quotaFlags map[string]string

// apply sets the quotas.
func (f quotaFlags) apply(q *batch.Quotas) error {
	for name, text := range f {
		var size setting.ByteSize
		var err error
		switch name {
		case "open_batches":
			q.OpenBatches, err = strconv.Atoi(text)
			if err != nil || q.OpenBatches < 1 {
				err = fmt.Errorf("cannot read %q as a number of batches: expected for example 100", setting.Clip(text))
			}
		case "stored_bytes", "upload_rate", "upload_burst":
			size, err = setting.ParseByteSize(text)
			if err == nil && size < 1 { // 0 would mean the configured quota
				err = fmt.Errorf("%s is %q: expected a size of at least 1 byte, such as 64MiB", name, setting.Clip(text))
			}
			*map[string]*int64{"stored_bytes": &q.StoredBytes, "upload_rate": &q.UploadRate, "upload_burst": &q.UploadBurst}[name] = int64(size)
		default:
			err = fmt.Errorf("unknown quota %q: expected open_batches, stored_bytes, upload_rate or upload_burst", setting.Clip(name))
		}
		if err != nil {
			return fmt.Errorf("--quota: %w", err)
		}
	}
	return nil
}

// parseDays parses a duration, also in days.
func parseDays(flag, text string) (time.Duration, error) {
	const longest = 100 * 365 * 24 * time.Hour
	times, scale := 1, text
	if days, ok := strings.CutSuffix(text, "d"); ok {
		times, scale = 24, days+"h"
	}
	d, err := time.ParseDuration(scale)
	if err != nil || d <= 0 || d > longest/time.Duration(times) { // before the multiplication, which may overflow
		return 0, fmt.Errorf("%s: cannot read %q as a time: expected for example 90d or 12h", flag, text)
	}
	return d * time.Duration(times), nil
}

func newKeysListCmd() *cobra.Command {
	var (
		ring keyring
		out  = format{name: "auto", among: []string{"auto", "table", "ndjson"}}
	)
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the keys, without their secrets",
		Long: `List the keys, without their secrets. A key whose record cannot be read is listed with
the reason; the command then ends with status 1.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := ring.load()
			if err != nil {
				return err
			}
			return withKeys(cfg, func(keys batch.KeyStore) error {
				found, faults, err := keys.ListKeys(cmd.Context())
				if err != nil {
					return err
				}
				slices.SortFunc(found, func(x, y batch.Key) int { return strings.Compare(x.Name, y.Name) })
				slices.SortFunc(faults, func(x, y batch.KeyFault) int { return strings.Compare(x.Name, y.Name) })
				if out.resolve(cmd.OutOrStdout()) == "table" {
					_, err = fmt.Fprintln(cmd.OutOrStdout(), keyTable(found, faults, time.Now()))
				} else {
					err = writeKeys(cmd.OutOrStdout(), found, faults)
				}
				if err == nil && len(faults) > 0 {
					err = fmt.Errorf("%d of %d keys in %s cannot be read, and nothing authenticates by them: "+
						"add the seal key that sealed them to seal.keys, or make them invalid with batchd keys revoke", len(faults), len(found)+len(faults), keys.Place())
				}
				return err
			})
		},
	}
	cmd.Aliases = []string{"ls"}
	ring.flags(cmd)
	cmd.Flags().Var(&out, "format", "table or ndjson (default: table on a terminal, ndjson elsewhere)")
	return cmd
}

// unreadableKey is a key that cannot be read, as it is listed.
type unreadableKey struct {
	Name  string `json:"name"`
	Error string `json:"error"`
}

// writeKeys writes keys, and those that cannot be read, as NDJSON.
func writeKeys(out io.Writer, keys []batch.Key, faults []batch.KeyFault) error {
	enc := json.NewEncoder(jsonOutput(out))
	enc.SetEscapeHTML(false)
	for i := range keys {
		if err := enc.Encode(&keys[i]); err != nil {
			return err
		}
	}
	for _, fault := range faults {
		if err := enc.Encode(unreadableKey{fault.Name, fault.Err.Error()}); err != nil {
			return err
		}
	}
	return nil
}

func keyTable(keys []batch.Key, faults []batch.KeyFault, now time.Time) string {
	tw := newTable("NAME", "OWNER", "SCOPES", "TARGETS", "CREATED", "STATE")
	for _, k := range keys {
		state := "valid"
		switch {
		case !k.Revoked.IsZero():
			state = "revoked " + k.Revoked.UTC().Format(time.DateTime)
		case !k.ValidAt(now):
			state = "expired " + k.Expires.UTC().Format(time.DateTime)
		case !k.Expires.IsZero():
			state = "until " + k.Expires.UTC().Format(time.DateTime)
		}
		targets := "all"
		switch {
		case k.Targets == nil:
		case len(k.Targets) == 0:
			targets = "none"
		default:
			targets = strings.Join(k.Targets, ", ")
		}
		tw.AppendRow(table.Row{visible(k.Name), visible(k.Owner), strings.Join(k.Scopes, ", "), visible(targets), k.Created.UTC().Format(time.DateTime), state})
	}
	for _, fault := range faults {
		tw.AppendRow(table.Row{visible(fault.Name), "", "", "", "", "not readable: " + visible(fault.Err.Error())})
	}
	return tw.Render()
}

func newKeysRevokeCmd() *cobra.Command {
	var ring keyring
	cmd := &cobra.Command{
		Use:     "revoke NAME",
		Short:   "Revoke a key, for good",
		Example: `  batchd keys revoke billing`,
		Args:    exactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkKeyName(args[0]); err != nil {
				return err
			}
			var place string
			var unreadable error
			if err := ring.change(cmd, audit.KeyRevoke, args[0], func(keys batch.KeyStore) (err error) {
				place = keys.Place()
				unreadable, err = keys.RevokeKey(cmd.Context(), args[0], time.Now().UTC().Truncate(time.Second))
				return err
			}); err != nil {
				return err
			}
			if unreadable != nil {
				if _, err := fmt.Fprintf(cmd.ErrOrStderr(), "The record of key %s was replaced, as it could not be read: %v\n", args[0], unreadable); err != nil {
					return err
				}
			}
			_, err := fmt.Fprintf(cmd.ErrOrStderr(), "Key %s is revoked in %s. All processes that have their keys there refuse it within 5 s.\n", args[0], place)
			return err
		},
	}
	ring.flags(cmd)
	return cmd
}

func newKeysRotateCmd() *cobra.Command {
	var (
		ring  keyring
		grace string
	)
	cmd := &cobra.Command{
		Use:   "rotate NAME",
		Short: "Give a key a new secret; the old one stays valid for a while",
		Example: `  batchd keys rotate billing
  batchd keys rotate billing --grace 0`,
		Args: exactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkKeyName(args[0]); err != nil {
				return err
			}
			var keep time.Duration
			if grace != "0" {
				var err error
				if keep, err = parseDays("--grace", grace); err != nil {
					return err
				}
			}
			text, now := apikey.New(), time.Now().UTC().Truncate(time.Second)
			until := now.Add(keep)
			var place string
			if err := ring.change(cmd, audit.KeyRotate, args[0], func(keys batch.KeyStore) error {
				place = keys.Place()
				return keys.ChangeKey(cmd.Context(), args[0], func(key *batch.Key) (*batch.Key, error) {
					switch {
					case key == nil:
						return nil, fmt.Errorf("key %s: %w", args[0], batch.ErrNoKey)
					case !key.ValidAt(now):
						return nil, fmt.Errorf("key %s was revoked or has expired: make another one with batchd keys create", args[0])
					}
					var secrets []batch.KeySecret
					for _, s := range key.Secrets {
						if s.Until.IsZero() || s.Until.After(until) {
							s.Until = until
						}
						if s.ValidAt(now) {
							secrets = append(secrets, s)
						}
					}
					key.Secrets = append(secrets, batch.KeySecret{SHA256: apikey.HexHash(text)})
					return key, nil
				})
			}); err != nil {
				return err
			}
			old := fmt.Sprintf("The old one is valid until %s.", until.Format(time.RFC3339))
			if keep == 0 {
				old = "They refuse the old one within 5 s."
			}
			return showKey(cmd, text, fmt.Sprintf("The new secret of key %s in %s is shown this once. Servers accept it within 5 s. %s", args[0], place, old))
		},
	}
	ring.flags(cmd)
	cmd.Flags().StringVar(&grace, "grace", "24h", "how `long` the old secret stays valid, such as 24h or 7d; 0 ends it at once")
	return cmd
}
