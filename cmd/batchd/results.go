package main

import (
	"bufio"
	"encoding/base64"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/batchd/batchd/client"
)

func newResultsCmd() *cobra.Command {
	var (
		conn     connection
		outcomes []string
		out      = format{name: "auto", among: []string{"auto", "table", "ndjson", "json", "csv"}}
	)
	cmd := &cobra.Command{
		Use:   "results ID",
		Short: "Print the results of a batch, in the order of its actions",
		Long: `Print the results of a batch, in the order of its actions. This works while the
batch runs, too: an action that has not ended has the outcome "pending".

The formats ndjson, json and csv are streamed and contain complete bodies. The
columns of csv are ` + strings.Join(csvColumns, ", ") + `.
A body that is not text, or is still compressed, is written as base64:…
Except on a terminal, csv contains bodies unchanged, with control characters;
ndjson and json escape control characters.

A result whose body the server left out, because a quota had no room for it, has
the name of the quota in truncated_by. The command then warns on standard error.`,
		Example: `  batchd results ID --outcome failed,errored
  batchd results ID --format csv > results.csv`,
		Args: exactArgs("ID"),
		RunE: conn.run(func(cmd *cobra.Command, args []string) error {
			filter, err := parseOutcomes(outcomes)
			if err != nil {
				return err
			}
			c, err := conn.client(0)
			if err != nil {
				return err
			}
			without := 0
			err = writeResults(cmd.OutOrStdout(), out.resolve(cmd.OutOrStdout()), countWithout(c.Results(cmd.Context(), args[0], filter), &without))
			warnWithout(cmd.ErrOrStderr(), without)
			return err
		}),
	}
	conn.flags(cmd)
	cmd.Flags().StringSliceVar(&outcomes, "outcome", nil, "only results with one of these `outcomes`: "+strings.Join(outcomeNames(), ", "))
	cmd.Flags().Var(&out, "format", "table, ndjson, json or csv (default: table on a terminal, ndjson elsewhere)")
	return cmd
}

// eachOf passes on results that have been read.
func eachOf(results []client.Result) iter.Seq2[*client.Result, error] {
	return func(yield func(*client.Result, error) bool) {
		for i := range results {
			if !yield(&results[i], nil) {
				return
			}
		}
	}
}

// countWithout passes results on, and counts those whose content a quota had no room for.
func countWithout(results iter.Seq2[*client.Result, error], n *int) iter.Seq2[*client.Result, error] {
	return func(yield func(*client.Result, error) bool) {
		for r, err := range results {
			if err == nil && r.TruncatedBy != "" {
				*n++
			}
			if !yield(r, err) {
				return
			}
		}
	}
}

// warnWithout warns about results whose content the server left out.
func warnWithout(stderr io.Writer, n int) {
	switch n {
	case 0:
	case 1:
		fmt.Fprintln(stderr, "warning: 1 result lacks its body, because the quota stored_bytes had no room for it")
	default:
		fmt.Fprintf(stderr, "warning: %s results lack their bodies, because the quota stored_bytes had no room for them\n", grouped(n))
	}
}

func outcomeNames() []string {
	var names []string
	for _, o := range client.Outcomes() {
		names = append(names, string(o))
	}
	return names
}

func parseOutcomes(names []string) (client.Filter, error) {
	var filter client.Filter
	for _, name := range names {
		o := client.Outcome(strings.TrimSpace(name))
		if !slices.Contains(client.Outcomes(), o) {
			return filter, fmt.Errorf("--outcome: unknown outcome %q: expected %s", name, strings.Join(outcomeNames(), ", "))
		}
		filter.Outcomes = append(filter.Outcomes, o)
	}
	return filter, nil
}

// format is the value of a --format flag.
type format struct {
	name  string
	among []string
}

// String implements pflag.Value.
func (f *format) String() string {
	if f.name == "auto" {
		return "" // the help explains the default
	}
	return f.name
}

// Type implements pflag.Value.
func (f *format) Type() string { return "format" }

// Set implements pflag.Value.
func (f *format) Set(name string) error {
	if !slices.Contains(f.among, name) {
		return fmt.Errorf("expected one of %s", strings.Join(f.among, ", "))
	}
	f.name = name
	return nil
}

// resolve returns the format for output to w.
func (f *format) resolve(w io.Writer) string {
	switch {
	case f.name != "auto":
		return f.name
	case terminalWidth(w) > 0:
		return "table"
	}
	return "ndjson"
}

func writeResults(w io.Writer, format string, results iter.Seq2[*client.Result, error]) error {
	switch format {
	case "json", "ndjson":
		w = jsonOutput(w)
	case "csv":
		w = faithful(w)
	}
	out := bufio.NewWriter(w)
	var err error
	switch format {
	case "table":
		err = writeResultTable(out, terminalWidth(w), results)
	case "csv":
		err = writeResultCSV(out, results)
	case "json":
		err = writeResultJSON(out, results)
	default:
		err = writeResultLines(out, results)
	}
	// Print the results before the error, too.
	if flushErr := out.Flush(); err == nil {
		err = flushErr
	}
	return err
}

func writeResultLines(w io.Writer, results iter.Seq2[*client.Result, error]) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	for r, err := range results {
		if err != nil {
			return err
		}
		if err := enc.Encode(r); err != nil {
			return err
		}
	}
	return nil
}

func writeResultJSON(w io.Writer, results iter.Seq2[*client.Result, error]) error {
	separator := "[\n"
	for r, err := range results {
		if err != nil {
			return err
		}
		line, err := r.MarshalJSON()
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(w, "%s%s", separator, line); err != nil {
			return err
		}
		separator = ",\n"
	}
	end := "\n]\n"
	if separator == "[\n" {
		end = "[]\n"
	}
	_, err := io.WriteString(w, end)
	return err
}

var csvColumns = []string{"id", "index", "outcome", "status", "attempts", "duration_ms", "error_code", "truncated_by", "body"}

func writeResultCSV(w io.Writer, results iter.Seq2[*client.Result, error]) error {
	out := csv.NewWriter(w)
	if err := out.Write(csvColumns); err != nil {
		return err
	}
	for r, err := range results {
		if err != nil {
			out.Flush()
			return err
		}
		var status, duration, code string
		if r.Status != 0 {
			status = strconv.Itoa(r.Status)
		}
		if !r.StartedAt.IsZero() {
			duration = strconv.FormatInt(r.Duration.Milliseconds(), 10)
		}
		if r.Error != nil {
			code = r.Error.Code
		}
		row := []string{r.ID, strconv.Itoa(r.Index), string(r.Outcome), status, strconv.Itoa(r.Attempts), duration, code, r.TruncatedBy, bodyText(r)}
		if err := out.Write(row); err != nil {
			return err
		}
	}
	out.Flush()
	return out.Error()
}

// bodyText returns a body that is text, and any other body in base64 with a prefix.
func bodyText(r *client.Result) string {
	if !r.Undecoded && utf8.Valid(r.Body) {
		return string(r.Body)
	}
	return "base64:" + base64.StdEncoding.EncodeToString(r.Body)
}
