package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/batchd/batchd/client"
)

func newWhoAmICmd() *cobra.Command {
	var (
		conn   connection
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:   "whoami",
		Short: "Show who you are for the server, and what you may do",
		Args:  cobra.NoArgs,
		RunE: conn.run(func(cmd *cobra.Command, _ []string) error {
			c, err := conn.client(0)
			if err != nil {
				return err
			}
			caller, err := c.WhoAmI(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(jsonOutput(cmd.OutOrStdout()), caller)
			}
			return printCaller(cmd.OutOrStdout(), caller)
		}),
	}
	conn.flags(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the server's document")
	return cmd
}

func printCaller(w io.Writer, c *client.Caller) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, text string) {
		if text != "" {
			fmt.Fprintf(tw, "%s\t%s\n", name, visible(text))
		}
	}
	row("mode", c.Mode)
	row("name", c.Name)
	row("owner", c.Owner)
	row("scopes", strings.Join(c.Scopes, ", "))
	if len(c.Scopes) == 0 {
		row("scopes", "none")
	}
	row("targets", strings.Join(c.Targets, ", "))
	if len(c.Targets) == 0 {
		row("targets", "none")
	}
	if c.Expires != nil {
		row("expires", c.Expires.UTC().Format(time.RFC3339))
	}
	return tw.Flush()
}
