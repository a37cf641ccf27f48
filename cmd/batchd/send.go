package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/batchd/batchd/client"
)

// input is the source of a submission.
type input struct {
	name   string
	stdin  io.Reader
	format format
	rows   rowFlags

	// at holds the lines of the actions in the last upload.
	at *places
}

func (in *input) isStdin() bool { return in.name == "-" }

// shown returns the input's name for messages.
func (in *input) shown() string {
	if in.isStdin() {
		return "standard input"
	}
	return visible(in.name)
}

// send submits the input while reading it once.
func (in *input) send(ctx context.Context, c *client.Client, opts client.Options) (*client.Batch, error) {
	file, err := in.open(ctx)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	buffered := bufio.NewReaderSize(file, sniffed)
	if err := checkEncoding(in.shown(), buffered); err != nil {
		return nil, err
	}
	kind := in.format.name
	if kind == formatAuto {
		kind = detectFormat(in.name, buffered)
	}
	if kind != formatCSV && in.rows.given() {
		return nil, fmt.Errorf("%s is read as %s, but --method, --path, --body and the other templates are for csv: use --format csv if the input is csv", in.shown(), kind)
	}
	in.at = &places{}
	switch kind {
	case formatCSV:
		rows, err := in.template()
		if err != nil {
			return nil, err
		}
		return c.SubmitStream(ctx, readCSV(in.shown(), buffered, rows, in.at), opts)
	case formatNDJSON:
		lines := newChunkReader(readNDJSON(in.shown(), buffered, in.at))
		defer lines.Close()
		return c.SubmitNDJSON(ctx, lines, opts)
	}
	doc := newChunkReader(readDocument(in.shown(), buffered, documentOptions(&opts), in.at))
	defer doc.Close()
	return c.SubmitJSON(ctx, doc, opts)
}

func (in *input) open(ctx context.Context) (io.ReadCloser, error) {
	if in.isStdin() {
		return io.NopCloser(&interruptible{ctx: ctx, in: in.stdin}), nil
	}
	file, err := os.Open(in.name)
	if pathErr, ok := errors.AsType[*fs.PathError](err); ok {
		return nil, fmt.Errorf("cannot open %s: %w", in.shown(), pathErr.Err)
	}
	if err != nil {
		return nil, err
	}
	if info, err := file.Stat(); err == nil && info.IsDir() {
		return nil, errors.Join(fmt.Errorf("%s is a directory: expected a file", in.shown()), file.Close())
	}
	return file, nil
}

func (in *input) template() (*rowTemplate, error) {
	flags := in.rows
	if flags.delimiter == "" && strings.EqualFold(filepath.Ext(in.name), ".tsv") {
		flags.delimiter, flags.byExtension = "tab", true
	}
	return flags.parse()
}

// documentOptions moves the options that are members of the document out of opts.
func documentOptions(opts *client.Options) []member {
	var members []member
	add := func(set bool, name string, value any) {
		if set {
			members = append(members, member{name, value})
		}
	}
	add(opts.Target != "", "target", opts.Target)
	add(opts.WebhookURL != "", "webhook", map[string]any{"url": opts.WebhookURL})
	add(opts.ExpiresIn != 0, "expires_in", opts.ExpiresIn.String())
	add(opts.Retention != 0, "retention", opts.Retention.String())
	add(opts.Metadata != nil, "metadata", opts.Metadata)
	*opts = client.Options{IdempotencyKey: opts.IdempotencyKey, Compression: opts.Compression, Wait: opts.Wait}
	return members
}

// located is a refusal whose faults have a file and a line.
type located struct {
	problem *client.Problem
	in      *input
}

// Error implements error.
func (e *located) Error() string {
	const most = 20
	var msg strings.Builder
	msg.WriteString(e.problem.Summary())
	listed := min(len(e.problem.Errors), most)
	for _, f := range e.problem.Errors[:listed] {
		if line := e.in.at.line(f.Index); line > 0 {
			fmt.Fprintf(&msg, "\n  %s:%d: %s", e.in.shown(), line, visible(strings.TrimPrefix(f.Pointer+": "+f.Detail, ": ")))
		} else {
			msg.WriteString("\n  " + f.String())
		}
	}
	if more := len(e.problem.Errors) - listed + e.problem.More; more > 0 {
		fmt.Fprintf(&msg, "\n  and %s more", grouped(more))
	}
	return msg.String()
}

// Unwrap returns the problem.
func (e *located) Unwrap() error { return e.problem }

// locate adds positions in the input to the faults that the server found.
func (in *input) locate(err error) error {
	if p, ok := errors.AsType[*client.Problem](err); ok && len(p.Errors) > 0 && in.at != nil {
		return &located{p, in}
	}
	return err
}

// interruptible stops reading when the context ends, even if standard input still
// blocks. The goroutine that remains ends with the process.
type interruptible struct {
	ctx context.Context // io.Reader has no parameter for one
	in  io.Reader
	buf []byte
}

// Read implements [io.Reader].
func (r *interruptible) Read(p []byte) (int, error) {
	type read struct {
		n   int
		err error
	}
	if len(r.buf) < len(p) {
		r.buf = make([]byte, len(p))
	}
	buf := r.buf[:len(p)]
	done := make(chan read, 1)
	go func() {
		n, err := r.in.Read(buf)
		done <- read{n, err}
	}()
	select {
	case got := <-done:
		return copy(p, buf[:got.n]), got.err
	case <-r.ctx.Done():
		r.buf = nil // the goroutine still uses it
		return 0, context.Cause(r.ctx)
	}
}
