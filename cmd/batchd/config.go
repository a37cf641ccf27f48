package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/config"
)

func newConfigCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Inspect configuration files"}
	cmd.AddCommand(&cobra.Command{
		Use:   "check FILE",
		Short: "Check a configuration file, and print the resulting settings",
		Long: `Check a configuration file together with the BATCHD_* variables, and print the
resulting settings with defaults and without secrets. The command reports all
faults at once, each with its file, line and key.`,
		Example: `  batchd config check batchd.yaml`,
		Args:    exactArgs("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := config.Load(config.Options{File: args[0], Environ: config.Environ(), Files: true})
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
