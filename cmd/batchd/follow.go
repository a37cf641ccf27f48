package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/batchd/batchd/client"
)

// followRetryFor is how long a command that follows a batch waits for a server that
// does not answer, at each interruption. It is longer than a restart takes.
const followRetryFor = 2 * time.Minute

// checkedResults is the most results of an ended batch that a command reads to warn about those without a body.
const checkedResults = 1000

// follow shows the progress of a batch on standard error until it has ended. It returns
// errNotAllSucceeded if not every action succeeded. If the user interrupts it, it explains that
// the batch goes on, and how to follow it again. It needs only the id of the batch.
func (c *connection) follow(cmd *cobra.Command, known *client.Batch) error {
	id, store, seen := known.ID, known.Store, !known.CreatedAt.IsZero()
	retrying, err := c.client(followRetryFor)
	if err != nil {
		return err
	}
	stderr := cmd.ErrOrStderr()
	shown := newProgress(stderr)
	for batch, err := range retrying.Watch(cmd.Context(), id, time.Second) {
		if err != nil {
			shown.clear()
			_, away := client.Transient(err)
			switch {
			case cmd.Context().Err() != nil:
				fmt.Fprintln(stderr, interruptedText(id, store))
			case away:
				fmt.Fprintln(stderr, awayText(id, store))
			default:
				return forgotten(err, seen, store)
			}
			printHints(stderr,
				hint{c.command("batchd status " + id + " --wait"), "follow it again"},
				hint{c.command("batchd results " + id), "results so far"},
				hint{c.command("batchd cancel " + id), "cancel actions that have not started"})
			return err
		}
		seen = true
		if batch.Store != client.StoreUnknown {
			store = batch.Store
		}
		if batch.Status.Terminal() {
			shown.clear()
			return c.finish(cmd.Context(), retrying, stderr, batch)
		}
		shown.update(batch)
	}
	return nil
}

// interruptedText explains what happens to a batch after the user stops following it.
func interruptedText(id string, store client.Store) string {
	text := "interrupted: batch " + visible(id) + " continues without this command"
	switch store {
	case client.StoreMemory:
		return text + ", as long as the server runs"
	case client.StoreUnknown:
		return text + ", unless the server keeps it in memory and ends"
	case client.StoreRedis:
	}
	return text
}

// awayText explains what happens to a batch while its server does not answer.
func awayText(id string, store client.Store) string {
	text := "the server does not answer: batch " + visible(id)
	switch store {
	case client.StoreMemory:
		return text + " is gone if the server has ended, because it was kept in the server's memory"
	case client.StoreRedis:
		return text + " continues when it is back"
	case client.StoreUnknown:
	}
	return text + " continues when it is back, unless the server kept it in memory and has ended"
}

// forgotten explains the answer "no such batch" for a batch that existed before.
func forgotten(err error, seen bool, store client.Store) error {
	p, ok := errors.AsType[*client.Problem](err)
	if !ok || p.Status != http.StatusNotFound || !seen {
		return err
	}
	switch store {
	case client.StoreMemory:
		return fmt.Errorf("%w\nthe server kept the batch in its memory: if it was restarted, the batch is gone", err)
	case client.StoreUnknown:
		return fmt.Errorf("%w\nif the server kept the batch in its memory and was restarted, the batch is gone", err)
	case client.StoreRedis:
	}
	return err
}

// finish prints how a batch ended.
func (c *connection) finish(ctx context.Context, from *client.Client, stderr io.Writer, batch *client.Batch) error {
	fmt.Fprintln(stderr, summary(batch))
	if batch.Counts.Total <= checkedResults {
		results := from.Results(ctx, batch.ID, client.Filter{})
		if len(batch.Results) > 0 && batch.ResultsNext == 0 { // all came with the batch
			results = eachOf(batch.Results)
		}
		n := 0
		for _, err := range countWithout(results, &n) {
			if err != nil {
				break // the batch has ended, whether its results can be read now or not
			}
		}
		warnWithout(stderr, n)
	}
	if batch.AllSucceeded() {
		return nil
	}
	var names []string
	for _, o := range client.Outcomes() {
		if o != client.Succeeded && batch.Counts.Of(o) > 0 {
			names = append(names, string(o))
		}
	}
	printHints(stderr, hint{c.command("batchd results " + batch.ID + " --outcome " + strings.Join(names, ",")), "their results"})
	return errNotAllSucceeded
}

// hint is a command and its purpose.
type hint struct{ command, purpose string }

func printHints(w io.Writer, hints ...hint) {
	widest := 0
	for _, h := range hints {
		widest = max(widest, len(h.command))
	}
	for _, h := range hints {
		fmt.Fprintf(w, "  %-*s  # %s\n", widest, visible(h.command), h.purpose)
	}
}
