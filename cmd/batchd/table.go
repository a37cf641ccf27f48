package main

import (
	"fmt"
	"io"
	"iter"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"

	"github.com/batchd/batchd/client"
)

const (
	// answerColumns bounds the last column of a result table without a terminal.
	answerColumns = 60
	// fixedColumns is the approximate width of the other columns.
	fixedColumns = 58
)

// newTable returns a table without lines around it, so that it can be copied.
func newTable(header ...any) table.Writer {
	tw := table.NewWriter()
	style := table.StyleLight
	style.Options = table.OptionsNoBordersAndSeparators
	style.Format.Header = text.FormatDefault
	tw.SetStyle(style)
	tw.SuppressTrailingSpaces()
	tw.AppendHeader(header)
	return tw
}

func right(column string) table.ColumnConfig {
	return table.ColumnConfig{Name: column, Align: text.AlignRight, AlignHeader: text.AlignRight}
}

// writeResultTable shows one line per result, for a terminal with that many columns, or
// 0 for none.
func writeResultTable(w io.Writer, width int, results iter.Seq2[*client.Result, error]) error {
	answer := answerColumns
	if width > 0 {
		answer = max(width-fixedColumns, 20)
	}
	tw := resultTable()
	n := 0
	for r, err := range results {
		if err != nil {
			return err
		}
		tw.AppendRow(resultRow(r, answer))
		n++
	}
	if n == 0 {
		_, err := fmt.Fprintln(w, "no results")
		return err
	}
	_, err := fmt.Fprintln(w, tw.Render())
	return err
}

func resultTable() table.Writer {
	tw := newTable("INDEX", "ID", "OUTCOME", "STATUS", "TRIES", "TIME", "ANSWER")
	tw.SetColumnConfigs([]table.ColumnConfig{right("INDEX"), right("STATUS"), right("TRIES"), right("TIME")})
	return tw
}

func resultRow(r *client.Result, answer int) table.Row {
	var status, took any = "", ""
	if r.Status != 0 {
		status = r.Status
	}
	if !r.StartedAt.IsZero() {
		took = duration(r.Duration)
	}
	return table.Row{r.Index, shorten(printable(r.ID), 24), printable(string(r.Outcome)), status, r.Attempts, took, answerText(r, answer)}
}

// answerText summarizes an answer on one line.
func answerText(r *client.Result, width int) string {
	switch {
	case r.Error != nil:
		return shorten(printable(r.Error.Code+": "+r.Error.Message), width)
	case r.TruncatedBy != "":
		return shorten(printable("left out: no room in the quota "+r.TruncatedBy), width)
	case len(r.Body) == 0:
		return ""
	case r.Undecoded:
		return fmt.Sprintf("%s bytes, not decoded", grouped(len(r.Body)))
	case !utf8.Valid(r.Body):
		return fmt.Sprintf("%s bytes, not text", grouped(len(r.Body)))
	}
	// Cut the body first, so that a body of a megabyte costs little.
	start := string(r.Body[:min(len(r.Body), 8*width)])
	return shorten(printable(strings.Join(strings.Fields(strings.ToValidUTF8(start, "")), " ")), width)
}

// printable replaces the control characters of terminals: a foreign body must not move
// the cursor or set the title.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '\ufffd'
	}, s)
}

// shorten cuts s to at most width columns.
func shorten(s string, width int) string {
	if text.StringWidth(s) <= width {
		return s
	}
	return text.Trim(s, width-1) + "…"
}
