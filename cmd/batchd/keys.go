package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
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
