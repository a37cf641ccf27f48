package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/batchd/batchd/internal/audit"
	"github.com/batchd/batchd/internal/config"
	"github.com/batchd/batchd/queue"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/reseal"
	"github.com/batchd/batchd/queue/seal"
)

func newSealCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "seal", Short: "Change the keys that encrypt what is in Redis"}
	rotate := &cobra.Command{
		Use:   "rotate",
		Short: "Encrypt everything that is stored with the first of seal.keys",
		Long: `Encrypt everything that is stored, batches, batchd's own keys and the salt of owners'
names, with the first of seal.keys, while the API and the workers run. To replace a
key:

  1. add the new key behind the old one, and restart every process: all can read it
  2. put the new key first, and restart every process: all write with it
  3. run batchd seal rotate
  4. if it says so, remove the old key, and restart every process

It may be interrupted and repeated. Backups of Redis still need the old key. To
encrypt what was stored in clear, set seal.keys and seal.accept_clear_until, restart
every process, run batchd seal rotate, and remove seal.accept_clear_until.`,
		Example: `  batchd seal rotate --config batchd.yaml`,
		Args:    cobra.NoArgs,
	}
	file, set := settingFlags(rotate)
	rotate.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := config.Load(config.Options{File: *file, Environ: config.Environ(), Set: set(cmd)})
		if err != nil {
			return withoutConfiguration(err, *file, "set --config or BATCHD_CONFIG to that of the server")
		}
		return audited(cmd, cfg.Audit, audit.Event{Name: audit.SealRotate}, func(e *audit.Event) error {
			return rotateSeals(cmd.Context(), cfg, newLogger(cfg, cmd.ErrOrStderr()), cmd.OutOrStdout(), e)
		})
	}
	cmd.AddCommand(rotate)
	return cmd
}

// progressEvery is how often a rotation reports its progress.
const progressEvery = 5 * time.Second

// rotateSeals seals what is stored with the first key, and says whether the others are needed. It adds to the event.
func rotateSeals(ctx context.Context, cfg *config.Config, log *slog.Logger, out io.Writer, e *audit.Event) (err error) {
	switch {
	case cfg.Redis.URL == rdb.Embedded:
		return errors.New("the embedded store has a key of its own, which ends with the process: set redis.url")
	case len(cfg.Seal.Keys) == 0:
		return errors.New("there are no seal.keys: set them first")
	}
	store, err := queue.Open(queue.Config{Redis: cfg.Redis, Seal: cfg.Seal.Config, Logger: log}) //nolint:contextcheck // the files of TLS are watched until Close
	if err != nil {
		return fmt.Errorf("open the store: %w", err)
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	if err := store.Ping(ctx); err != nil { // otherwise the rotation waits a minute for Redis
		e.Result = audit.Failed
		return fmt.Errorf("redis at %s does not answer, and nothing was changed: %w", cfg.Redis.URL, err)
	}
	rotation := reseal.New(store.DB, store.Seals, store.Batches)
	last := time.Now()
	rotation.Progress = func(r reseal.Report) {
		if time.Since(last) >= progressEvery {
			last = time.Now()
			log.InfoContext(ctx, "encrypting stored values", "pass", r.Passes, "keys", r.Keys, "values", r.Values, "encrypted", r.Resealed)
		}
	}
	report, err := rotation.Run(ctx)
	e.Count = report.Resealed
	if err != nil {
		e.Result = audit.Failed
		return fmt.Errorf("after %d values were encrypted, run it again: %w", report.Resealed, err)
	}
	first := cfg.Seal.Keys[0].ID
	if !report.Complete() {
		e.Result = audit.Failed
		for _, fault := range report.Faults {
			log.ErrorContext(ctx, "a stored value was not encrypted", "error", fault)
		}
		if advice := missingKeys(report.Left, cfg.Seal.Keys); advice != "" {
			return fmt.Errorf("%d values were encrypted with key %q, and others were not: %s", report.Resealed, first, advice)
		}
		return fmt.Errorf("%d values were encrypted with key %q, and others were not: keep the other keys, make sure that every process has %q as its first key, and run it again", report.Resealed, first, first)
	}
	if _, err := fmt.Fprintf(out, "%d values were encrypted with key %q; all %d stored values are.\n", report.Resealed, first, report.Values); err != nil {
		return fmt.Errorf("print the result: %w", err)
	}
	text := "No other key is configured.\n"
	if len(cfg.Seal.Keys) > 1 {
		text = "The other keys are not needed any more, if every process has this one first: remove them. Backups of Redis still need them.\n"
	}
	if _, err := io.WriteString(out, text); err != nil {
		return fmt.Errorf("print the result: %w", err)
	}
	return nil
}

// missingKeys says which keys a rotation needs to open the values that it left, or returns "" if it lacks none.
func missingKeys(left map[string]int, keys []seal.Key) string {
	var advice []string
	for _, id := range slices.Sorted(maps.Keys(left)) {
		switch {
		case id == "" || slices.ContainsFunc(keys, func(k seal.Key) bool { return k.ID == id }):
		case left[id] == 1:
			advice = append(advice, fmt.Sprintf("1 was sealed with key %q", id))
		default:
			advice = append(advice, fmt.Sprintf("%d were sealed with key %q", left[id], id))
		}
	}
	if len(advice) == 0 && left[""] > 0 {
		return fmt.Sprintf("%d are stored in clear or are damaged, as the log says: set seal.accept_clear_until to encrypt those in clear, and run it again", left[""])
	}
	if len(advice) == 0 {
		return ""
	}
	return strings.Join(advice, ", ") + ", which seal.keys does not have: add the key that sealed them to seal.keys, behind the first, and run it again"
}
