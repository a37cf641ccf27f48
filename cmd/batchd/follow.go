package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/batchd/batchd/client"
)

// followPatience is how long following bears with a server that is away, each
// time anew: long enough for a restart.
const followPatience = 2 * time.Minute

// follow shows the progress of a batch until it has ended, on standard error.
// It answers errNotAllSucceeded where that is so. When it is interrupted, the
// batch runs on, and the user is told how to come back.
func (c *connection) follow(cmd *cobra.Command, id string) error {
	patient, err := c.client(followPatience)
	if err != nil {
		return err
	}
	stderr := cmd.ErrOrStderr()
	shown := newProgress(stderr)
	for batch, err := range patient.Watch(cmd.Context(), id, time.Second) {
		if err != nil {
			shown.clear()
			_, away := client.Transient(err)
			switch {
			case cmd.Context().Err() != nil:
				fmt.Fprintf(stderr, "interrupted: batch %s goes on without you\n", id)
			case away:
				fmt.Fprintf(stderr, "the server is away: batch %s goes on when it is back\n", id)
			default:
				return err
			}
			printHints(stderr,
				hint{c.command("batchd status " + id + " --wait"), "come back to it"},
				hint{c.command("batchd results " + id), "what is there so far"},
				hint{c.command("batchd cancel " + id), "stop what has not started"})
			return err
		}
		if batch.Status.Terminal() {
			shown.clear()
			return c.finish(stderr, batch)
		}
		shown.update(batch)
	}
	return nil
}

// finish says how a batch ended.
func (c *connection) finish(stderr io.Writer, batch *client.Batch) error {
	fmt.Fprintln(stderr, summary(batch))
	if batch.AllSucceeded() {
		return nil
	}
	var names []string
	for _, o := range client.Outcomes() {
		if o != client.Succeeded && batch.Counts.Of(o) > 0 {
			names = append(names, string(o))
		}
	}
	printHints(stderr, hint{c.command("batchd results " + batch.ID + " --outcome " + strings.Join(names, ",")), "what became of those"})
	return errNotAllSucceeded
}

// hint is a command, and what it is good for.
type hint struct{ command, purpose string }

func printHints(w io.Writer, hints ...hint) {
	widest := 0
	for _, h := range hints {
		widest = max(widest, len(h.command))
	}
	for _, h := range hints {
		fmt.Fprintf(w, "  %-*s  # %s\n", widest, h.command, h.purpose)
	}
}
