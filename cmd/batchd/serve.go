package main

import (
	"io"
	"log"
	"log/slog"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/batchd/batchd/internal/config"
)

func newServeCmd() *cobra.Command {
	return newInstanceCmd(roles{api: true, worker: true}, &cobra.Command{
		Use:   "serve",
		Short: "Run the API and a worker in one process",
		Long: `Run the API and a worker in one process. Without a configuration file it needs one
flag, --target, and keeps batches in its own memory.`,
		Example: `  batchd serve --target http://127.0.0.1:9000
  batchd serve --config batchd.yaml`,
	})
}

func newAPICmd() *cobra.Command {
	return newInstanceCmd(roles{api: true}, &cobra.Command{
		Use:     "api",
		Short:   "Run the API alone; workers run the actions",
		Example: `  batchd api --config batchd.yaml`,
	})
}

func newWorkerCmd() *cobra.Command {
	return newInstanceCmd(roles{worker: true}, &cobra.Command{
		Use:     "worker",
		Short:   "Run a worker alone; run as many as the load needs",
		Example: `  batchd worker --config batchd.yaml`,
	})
}

// newInstanceCmd completes a command that runs an instance until a signal arrives.
func newInstanceCmd(r roles, cmd *cobra.Command) *cobra.Command {
	file, set := settingFlags(cmd)
	cmd.Args = cobra.NoArgs
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := config.Load(config.Options{File: *file, Environ: config.Environ(), Set: set(cmd)})
		if err != nil {
			return err
		}
		// net/http logs bytes that a target sends without a request to the standard
		// logger. Do not show the bytes of a target.
		log.SetOutput(io.Discard)
		// If the reader of the log ends, for instance when a terminal is closed, requests
		// in flight must go on.
		signal.Ignore(syscall.SIGPIPE)
		i, err := startInstance(cmd.Context(), cfg, newLogger(cfg, cmd.ErrOrStderr()), unwrapped(cmd.OutOrStdout()), r)
		if err != nil {
			return err
		}
		return i.Wait()
	}
	return cmd
}

// settingFlags adds --config and a flag for every setting. It returns the file, and a
// function that returns the flags that were given.
func settingFlags(cmd *cobra.Command) (file *string, set func(*cobra.Command) map[string]string) {
	file = cmd.Flags().StringP("config", "c", "", "the configuration `file` (or BATCHD_CONFIG)")
	settings := config.Settings()
	for _, s := range settings {
		if s.Secret {
			continue // a secret: every user of the machine can read a command line
		}
		usage := "sets " + s.Path + " (or " + s.Env + ")"
		if s.Flag == "target" {
			usage = "the `URL` of a single target (or " + s.Env + ")"
		}
		cmd.Flags().String(s.Flag, s.Default, usage)
	}
	return file, func(cmd *cobra.Command) map[string]string {
		given := map[string]string{}
		for _, s := range settings {
			if f := cmd.Flags().Lookup(s.Flag); f != nil && f.Changed {
				given[s.Path] = f.Value.String()
			}
		}
		return given
	}
}

func newLogger(cfg *config.Config, out io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: cfg.Log.Level.Level()}
	if cfg.Log.Format == config.LogJSON {
		return slog.New(slog.NewJSONHandler(out, options))
	}
	return slog.New(slog.NewTextHandler(out, options))
}
