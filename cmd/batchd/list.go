package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"github.com/batchd/batchd/client"
)

func newListCmd() *cobra.Command {
	var (
		conn  connection
		limit int
		owner string
		out   = format{name: "auto", among: []string{"auto", "table", "ndjson"}}
	)
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List your batches, newest first",
		Long: `List your batches, newest first. With a key that has the scope admin, the list has the
batches of all owners, or of one with --owner. A batch that the server cannot read is
listed with the error; the command then ends with status 1.`,
		Example: `  batchd list --limit 5
  batchd list --owner key:billing`,
		Args: cobra.NoArgs,
		RunE: conn.run(func(cmd *cobra.Command, _ []string) error {
			if limit < 1 {
				return fmt.Errorf("--limit is %d: expected 1 or more", limit)
			}
			c, err := conn.client(0)
			if err != nil {
				return err
			}
			var batches []*client.Batch
			found := c.List(cmd.Context())
			if cmd.Flags().Changed("owner") {
				found = c.ListOwner(cmd.Context(), owner)
			}
			for batch, err := range found {
				if err != nil {
					return err
				}
				if batches = append(batches, batch); len(batches) == limit {
					break
				}
			}
			if out.resolve(cmd.OutOrStdout()) == "table" {
				_, err = fmt.Fprintln(cmd.OutOrStdout(), batchTable(batches))
			} else {
				err = writeBatches(cmd.OutOrStdout(), batches)
			}
			if err != nil {
				return err
			}
			return unreadable(batches)
		}),
	}
	conn.flags(cmd)
	cmd.Flags().IntVar(&limit, "limit", 20, "the most batches to list")
	cmd.Flags().StringVar(&owner, "owner", "", "list the batches of this `owner` alone; needs a key with the scope admin")
	cmd.Flags().Var(&out, "format", "table or ndjson (default: table on a terminal, ndjson elsewhere)")
	return cmd
}

// damagedBatch is a batch that the server cannot read, as it is listed.
type damagedBatch struct {
	ID        string    `json:"id"`
	CreatedAt time.Time `json:"created_at"`
	Owner     string    `json:"owner,omitempty"`
	Error     string    `json:"error"`
}

// writeBatches writes batches as NDJSON.
func writeBatches(out io.Writer, batches []*client.Batch) error {
	enc := json.NewEncoder(jsonOutput(out))
	enc.SetEscapeHTML(false)
	for _, b := range batches {
		var doc any = b
		if b.Error != "" {
			doc = damagedBatch{b.ID, b.CreatedAt, b.Owner, b.Error}
		}
		if err := enc.Encode(doc); err != nil {
			return err
		}
	}
	return nil
}

// unreadable returns an error with the reason of the first batch that the server cannot read, or nil.
func unreadable(batches []*client.Batch) error {
	var first *client.Batch
	n := 0
	for _, b := range batches {
		if b.Error != "" {
			n++
			first = cmp.Or(first, b)
		}
	}
	if first == nil {
		return nil
	}
	return fmt.Errorf("%d of %d batches cannot be read, such as: %s", n, len(batches), visible(first.Error))
}

// batchTable has the owners if the server tells them.
func batchTable(batches []*client.Batch) string {
	headers := []any{"ID", "STATUS", "ACTIONS", "CREATED", "OUTCOMES"}
	owners := slices.ContainsFunc(batches, func(b *client.Batch) bool { return b.Owner != "" })
	if owners {
		headers = slices.Insert(headers, 1, any("OWNER"))
	}
	tw := newTable(headers...)
	tw.SetColumnConfigs([]table.ColumnConfig{right("ACTIONS")})
	for _, b := range batches {
		row := table.Row{visible(b.ID), visible(string(b.Status)), grouped(b.Counts.Total), b.CreatedAt.UTC().Format("2006-01-02 15:04:05"), outcomes(&b.Counts)}
		if b.Error != "" {
			row[1], row[2], row[4] = "unreadable", "", ""
		}
		if owners {
			row = slices.Insert(row, 1, any(visible(b.Owner)))
		}
		tw.AppendRow(row)
	}
	return tw.Render()
}
