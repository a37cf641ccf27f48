package main

import (
	"encoding/json"
	"fmt"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"github.com/batchd/batchd/client"
)

func newListCmd() *cobra.Command {
	var (
		conn  connection
		limit int
		out   = format{name: "auto", among: []string{"auto", "table", "ndjson"}}
	)
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List your batches, newest first",
		Args:  cobra.NoArgs,
		RunE: conn.run(func(cmd *cobra.Command, _ []string) error {
			if limit < 1 {
				return fmt.Errorf("--limit is %d: expected 1 or more", limit)
			}
			c, err := conn.client(0)
			if err != nil {
				return err
			}
			var batches []*client.Batch
			for batch, err := range c.List(cmd.Context()) {
				if err != nil {
					return err
				}
				if batches = append(batches, batch); len(batches) == limit {
					break
				}
			}
			if out.resolve(cmd.OutOrStdout()) == "table" {
				_, err = fmt.Fprintln(cmd.OutOrStdout(), batchTable(batches))
				return err
			}
			enc := json.NewEncoder(jsonOutput(cmd.OutOrStdout()))
			enc.SetEscapeHTML(false)
			for _, batch := range batches {
				if err := enc.Encode(batch); err != nil {
					return err
				}
			}
			return nil
		}),
	}
	conn.flags(cmd)
	cmd.Flags().IntVar(&limit, "limit", 20, "the most batches to list")
	cmd.Flags().Var(&out, "format", "table or ndjson (default: table on a terminal, ndjson elsewhere)")
	return cmd
}

func batchTable(batches []*client.Batch) string {
	tw := newTable("ID", "STATUS", "ACTIONS", "CREATED", "OUTCOMES")
	tw.SetColumnConfigs([]table.ColumnConfig{right("ACTIONS")})
	for _, b := range batches {
		tw.AppendRow(table.Row{visible(b.ID), visible(string(b.Status)), grouped(b.Counts.Total), b.CreatedAt.UTC().Format("2006-01-02 15:04:05"), outcomes(&b.Counts)})
	}
	return tw.Render()
}
