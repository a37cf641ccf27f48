package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/batchd/batchd/api/auth"
	"github.com/batchd/batchd/internal/audit"
	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/config"
	"github.com/batchd/batchd/queue"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/seal"
)

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
