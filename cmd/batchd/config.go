package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/config"
)

func newConfigCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Inspect configuration files"}
	cmd.AddCommand(&cobra.Command{
		Use:   "check [FILE]",
		Short: "Check a configuration file, and print the resulting settings",
		Long: `Check a configuration file together with the BATCHD_* variables, and print the
resulting settings with defaults and without secrets. The command reports all
faults at once, each with its file, line and key. Without a FILE it checks the one that
BATCHD_CONFIG names. It also reads the files that a process with the API opens when it
starts.`,
		Example: `  batchd config check batchd.yaml`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				if os.Getenv(config.EnvName("config")) == "" {
					return fmt.Errorf("the FILE is missing: name it, or set BATCHD_CONFIG: usage: %s", cmd.UseLine())
				}
				return nil
			}
			return exactArgs("FILE")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			var name string // none: BATCHD_CONFIG
			if len(args) > 0 {
				name = args[0]
			}
			cfg, err := config.Load(config.Options{File: name, Environ: config.Environ(), Files: true})
			if err != nil {
				return err
			}
			if file := keysFile(cfg); file != nil {
				if check := file.Check(); check.State != batch.CheckOK {
					if _, err := fmt.Fprintf(cmd.ErrOrStderr(), "warning: %s\n", check.Detail); err != nil {
						return err
					}
				}
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), cfg.Summary())
			return err
		},
	})
	return cmd
}
