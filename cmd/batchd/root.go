package main

import (
	"slices"

	"github.com/spf13/cobra"
)

const (
	groupServer = "server"
	groupClient = "client"
)

func newRootCmd() *cobra.Command {
	root := &cobra.Command{
		Use:   "batchd",
		Short: "Run batches of HTTP actions against an API, and get the results in order",
		Long: `batchd takes a batch of HTTP actions, runs every one of them against a target
API, and returns the results in the order of the request.

Exit codes: 0 success · 1 wrong usage, or the server refused or failed ·
2 the batch ended, and not every action succeeded · 130 interrupted`,
		Example: `  batchd demo
  batchd serve --target http://127.0.0.1:9000
  batchd submit actions.ndjson --wait`,
		SilenceUsage:      true,
		SilenceErrors:     true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
		PersistentPreRunE: checkFlags,
	}
	root.AddGroup(
		&cobra.Group{ID: groupServer, Title: "Serving:"},
		&cobra.Group{ID: groupClient, Title: "Submitting:"},
	)
	for _, cmd := range commands() {
		root.AddCommand(cmd)
	}
	return root
}

// commands returns all commands, each in its group of the help.
func commands() []*cobra.Command {
	group := func(id string, cmds ...*cobra.Command) []*cobra.Command {
		for _, cmd := range cmds {
			cmd.GroupID = id
		}
		return cmds
	}
	return slices.Concat(
		group(groupServer, newDemoCmd(), newServeCmd(), newAPICmd(), newWorkerCmd(), newKeysCmd(), newConfigCmd(), newSealCmd(), newHealthCmd()),
		group(groupClient, newSubmitCmd(), newStatusCmd(), newResultsCmd(), newCancelCmd(), newRetryCmd(), newListCmd(), newWhoAmICmd()),
		[]*cobra.Command{newVersionCmd()},
	)
}
