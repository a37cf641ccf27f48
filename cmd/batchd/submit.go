package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/batchd/batchd/client"
)

const submitHelp = `Submit a batch of actions, and print its id. The server accepts the whole
batch or nothing. FILE is - for standard input. Files of any length are streamed.

FORMATS
  ndjson  one action per line: {"method":"POST","path":"/items","body":{"name":"x"}}
  json    an array of actions, or a document: {"target":"crm","actions":[…],…}
  csv     a row with the names of the columns, then one action per row

The extension (.ndjson, .jsonl, .json, .csv, .tsv) determines the format, or else
the start of the file. All formats are UTF-8, and may start with a byte order mark;
blank lines are ignored. Every column of csv needs a unique name, and values keep
their line ends. Members of an action: id, method, path, query, headers,
body (or body_text, body_base64), timeout, retry. Flags override the members of a
document; metadata is merged.

TEMPLATES (csv)
  --path, --body, --body-text, --header-template, --id and --method turn a row into
  an action. The value in the column "name" replaces {name}:

  in --path           percent-encoded, as one segment of the path or as one name or
                      value of the query: with /items/{sku}?tag={tag}, the sku C#/1
                      becomes C%23%2F1. The rest of the template is unchanged.
  in --body           a JSON string: {"name": {name}, "note": "from {city}"}
                      Within quotes, the value is inserted without its own quotes.
  in all others       unchanged

  {name:number} {name:bool} {name:json}   checked, and inserted without quotes
  {name:raw}    unchanged, unchecked      {name:url}  percent-encoded
  {name:number?}  the same, but null if the value is empty; {name?} as well
  {{            a literal {; JSON needs none

  Without --body, the body of a POST, PUT or PATCH is the row as a JSON object of
  strings. Every column that a template names must exist.

SENDING AGAIN
  If the server is busy or the connection breaks, batchd sends a file again under
  an idempotency key, so that the server accepts it only once. Standard input cannot
  be read again, so batchd sends it once.`

const submitExample = `  batchd submit actions.ndjson --wait
  batchd submit batch.json --target crm --webhook https://example.com/hook
  batchd submit customers.csv --path '/customers/{id}' --method PUT \
    --body '{"name": {name}, "age": {age:number?}}' --header-template 'X-Tenant: {tenant}'
  generate | batchd submit - --format ndjson`

// submitCommand holds the flags of one submission.
type submitCommand struct {
	conn        connection
	input       input
	options     client.Options
	metadata    []string
	compression string
	wait        bool
}

func newSubmitCmd() *cobra.Command {
	s := &submitCommand{input: input{format: format{name: formatAuto, among: []string{formatAuto, formatJSON, formatNDJSON, formatCSV}}}}
	cmd := &cobra.Command{
		Use:     "submit FILE",
		Short:   "Submit a batch from NDJSON, JSON or CSV",
		Long:    submitHelp,
		Example: submitExample,
		Args:    exactArgs("FILE"),
		RunE:    s.conn.run(s.run),
	}
	s.conn.flags(cmd)
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&s.options.Target, "target", "", "the API to call, by its `name` (default: the server's only one)")
	f.BoolVar(&s.wait, "wait", false, "wait for the end, show the progress, and exit with 2 if not every action succeeded")
	f.StringVar(&s.options.WebhookURL, "webhook", "", "`URL` that batchd notifies when the batch ends")
	f.DurationVar(&s.options.ExpiresIn, "expires-in", 0, "begin no action after this time (default: the server's)")
	f.DurationVar(&s.options.Retention, "retention", 0, "how long to keep the results after the end (default: the server's)")
	f.StringArrayVar(&s.metadata, "metadata", nil, "`key=value` to keep with the batch; may be repeated")
	f.StringVar(&s.options.IdempotencyKey, "idempotency-key", "", "a `key` that makes a repeated submission return the first one's batch (default: a new one for a file)")
	f.StringVar(&s.compression, "compress", "none", "compress the upload: none, gzip or zstd")
	f.Var(&s.input.format, "format", "ndjson, json or csv (default: by the file)")
	f.StringVar(&s.input.rows.method, "method", "", "csv: `template` of the method (default POST)")
	f.StringVar(&s.input.rows.path, "path", "", "csv: `template` of the path, with its query")
	f.StringVar(&s.input.rows.body, "body", "", "csv: `template` of a JSON body (default: the row)")
	f.StringVar(&s.input.rows.bodyText, "body-text", "", "csv: `template` of a body that is not JSON")
	f.StringArrayVar(&s.input.rows.headers, "header-template", nil, "csv: `template` of a header of the action, 'Name: value'; may be repeated")
	f.StringVar(&s.input.rows.id, "id", "", "csv: `template` of the action's id (default: its index)")
	f.StringVar(&s.input.rows.delimiter, "delimiter", "", "csv: the `character` between columns (default: a comma; in .tsv files a tab)")
	return cmd
}

func (s *submitCommand) run(cmd *cobra.Command, args []string) error {
	if err := s.finishOptions(cmd); err != nil {
		return err
	}
	s.input.name = args[0]
	s.input.stdin = cmd.InOrStdin()
	if !s.input.isStdin() && s.options.IdempotencyKey == "" {
		s.options.IdempotencyKey = client.NewIdempotencyKey()
	}
	c, err := s.conn.client(0) // this command repeats the submission itself, because it reports each repetition
	if err != nil {
		return err
	}
	batch, err := s.submit(cmd, c)
	if err != nil {
		if cmd.Context().Err() != nil {
			fmt.Fprintln(cmd.ErrOrStderr(), "interrupted before the server answered: batchd list shows whether it accepted the batch")
		}
		return err
	}
	if _, err := fmt.Fprintln(cmd.OutOrStdout(), visible(batch.ID)); err != nil {
		return err
	}
	stderr := cmd.ErrOrStderr()
	switch {
	case !s.wait:
		fmt.Fprintf(stderr, "accepted: %s actions\n", grouped(batch.Counts.Total))
		printHints(stderr,
			hint{s.conn.command("batchd status " + batch.ID + " --wait"), "follow it"},
			hint{s.conn.command("batchd results " + batch.ID), "read the results"})
		return nil
	case batch.Status.Terminal():
		return s.conn.finish(cmd.Context(), c, stderr, batch)
	}
	return s.conn.follow(cmd, batch)
}

func (s *submitCommand) finishOptions(cmd *cobra.Command) error {
	for _, pair := range s.metadata {
		key, value, ok := strings.Cut(pair, "=")
		if !ok || key == "" {
			return fmt.Errorf("--metadata %q: expected key=value", clip(pair))
		}
		if s.options.Metadata == nil {
			s.options.Metadata = map[string]string{}
		}
		s.options.Metadata[key] = value
	}
	switch {
	case !slices.Contains([]string{"none", "gzip", "zstd"}, s.compression):
		return fmt.Errorf("--compress %q: expected none, gzip or zstd", clip(s.compression))
	}
	for _, given := range []struct {
		flag  string
		value time.Duration
	}{{"expires-in", s.options.ExpiresIn}, {"retention", s.options.Retention}} {
		switch {
		case given.value < 0:
			return fmt.Errorf("--%s is below zero", given.flag)
		case given.value == 0 && cmd.Flags().Changed(given.flag):
			return fmt.Errorf("--%s is zero: expected more, or leave it out for the server's own", given.flag)
		}
	}
	if s.compression != "none" {
		s.options.Compression = client.Compression(s.compression)
	}
	if s.wait {
		// This tells the server that the client waits: a small batch then needs no
		// polling.
		s.options.Wait = time.Second
	}
	return nil
}

// submitRetryFor is how long the command repeats a submission while the server is busy.
const submitRetryFor = time.Minute

// submit sends the input. It sends a file again after a temporary error.
func (s *submitCommand) submit(cmd *cobra.Command, c *client.Client) (*client.Batch, error) {
	giveUp := time.Now().Add(submitRetryFor)
	for attempt := 1; ; attempt++ {
		batch, err := s.input.send(cmd.Context(), c, s.options)
		if err == nil {
			return batch, nil
		}
		after, transient := client.Transient(err)
		if !transient || cmd.Context().Err() != nil || attempt == 1 && isRefused(err) {
			return nil, s.input.locate(err)
		}
		if s.input.isStdin() {
			return nil, fmt.Errorf("%w\nstandard input cannot be read again, so it was sent once: run the command again", err)
		}
		if after == 0 {
			after = min(time.Duration(attempt)*time.Second, 5*time.Second)
		}
		if time.Now().Add(after).After(giveUp) {
			return nil, err
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "%v\nsending it again in %s\n", err, after)
		select {
		case <-time.After(after):
		case <-cmd.Context().Done():
			return nil, cmd.Context().Err()
		}
	}
}
