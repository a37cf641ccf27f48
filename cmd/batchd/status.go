package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/batchd/batchd/client"
)

func newStatusCmd() *cobra.Command {
	var (
		conn         connection
		wait, asJSON bool
	)
	cmd := &cobra.Command{
		Use:   "status ID",
		Short: "Show the progress of a batch",
		Long: `Show the progress of a batch. With --wait, show it until the batch has ended, and
exit with 2 if not every action succeeded.`,
		Args: exactArgs("ID"),
		RunE: conn.run(func(cmd *cobra.Command, args []string) error {
			c, err := conn.client(0)
			if err != nil {
				return err
			}
			var ended error
			if wait {
				// Show the document even if not every action succeeded.
				if ended = conn.follow(cmd, &client.Batch{ID: args[0]}); ended != nil && ended != errNotAllSucceeded { //nolint:errorlint // the same error value
					return ended
				}
				if !asJSON {
					return ended
				}
			}
			batch, err := c.Get(cmd.Context(), args[0], 0)
			if err != nil {
				return err
			}
			if asJSON {
				batch.Results = nil // `batchd results` shows them
				err = writeJSON(jsonOutput(cmd.OutOrStdout()), batch)
			} else {
				err = printBatch(cmd.OutOrStdout(), batch)
			}
			if err != nil {
				return err
			}
			return ended
		}),
	}
	conn.flags(cmd)
	cmd.Flags().BoolVar(&wait, "wait", false, "wait for the end and show the progress")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the server's document, without results")
	return cmd
}

func newCancelCmd() *cobra.Command {
	var conn connection
	cmd := &cobra.Command{
		Use:   "cancel ID",
		Short: "Cancel the actions of a batch that have not started",
		Long: `Cancel the actions of a batch that have not started. Actions in flight finish,
and keep their results.`,
		Args: exactArgs("ID"),
		RunE: conn.run(func(cmd *cobra.Command, args []string) error {
			c, err := conn.client(0)
			if err != nil {
				return err
			}
			batch, err := c.Cancel(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", visible(string(batch.Status)), outcomes(&batch.Counts))
			return err
		}),
	}
	conn.flags(cmd)
	return cmd
}

func newRetryCmd() *cobra.Command {
	var (
		conn  connection
		named []string
		wait  bool
	)
	cmd := &cobra.Command{
		Use:   "retry ID",
		Short: "Run the unsuccessful actions of a batch again",
		Long: `Run the unsuccessful actions of an ended batch again. The batch keeps its
id, and every result its place. An action with the outcome unknown may have had
its effect, so it runs again only if --outcome names unknown.`,
		Example: `  batchd retry ID --wait
  batchd retry ID --outcome failed,unknown`,
		Args: exactArgs("ID"),
		RunE: conn.run(func(cmd *cobra.Command, args []string) error {
			c, err := conn.client(0)
			if err != nil {
				return err
			}
			names := make([]client.Outcome, len(named))
			for i, name := range named {
				names[i] = client.Outcome(name)
			}
			batch, err := c.Retry(cmd.Context(), args[0], names...)
			if err != nil {
				return err
			}
			if wait {
				return conn.follow(cmd, batch)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", visible(string(batch.Status)), outcomes(&batch.Counts))
			return err
		}),
	}
	conn.flags(cmd)
	cmd.Flags().StringSliceVar(&named, "outcome", nil, "the `outcomes` to run again (default failed,errored,expired,skipped)")
	cmd.Flags().BoolVar(&wait, "wait", false, "wait for the end and show the progress")
	return cmd
}

// exactArgs requires one argument, and names it if it is missing.
func exactArgs(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch len(args) {
		case 0:
			return fmt.Errorf("the %s is missing: usage: %s", name, cmd.UseLine())
		case 1:
			if args[0] == "" {
				return fmt.Errorf("the %s is empty: usage: %s", name, cmd.UseLine())
			}
			if name == "FILE" {
				return nil // a file may have any name
			}
			return checkArgument("the "+name, args[0])
		}
		return fmt.Errorf("expected one %s, got %d: usage: %s", name, len(args), cmd.UseLine())
	}
}

func printBatch(w io.Writer, b *client.Batch) error {
	const at = "2006-01-02 15:04:05 MST"
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(tw, "%s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	row("id", "%s", visible(b.ID))
	row("status", "%s", visible(string(b.Status)))
	if b.Target != "" {
		row("target", "%s", visible(b.Target))
	}
	row("actions", "%s of %s done (%d%%): %s", grouped(b.Counts.Done()), grouped(b.Counts.Total), percent(&b.Counts), outcomes(&b.Counts))
	row("created", "%s", b.CreatedAt.UTC().Format(at))
	for _, moment := range []struct {
		name string
		at   *time.Time
	}{{"started", b.StartedAt}, {"ended", b.EndedAt}, {"expires", b.ExpiresAt}} {
		if moment.at != nil {
			row(moment.name, "%s", moment.at.UTC().Format(at))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(b.Metadata)) {
		row("metadata", "%s=%s", visible(key), visible(b.Metadata[key]))
	}
	return tw.Flush()
}

func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
