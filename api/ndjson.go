package api

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/intake"
)

// readNDJSON reads a submission with one action per line, and its options in the query.
// Blank lines are ignored and not counted. After a line that is not JSON, readNDJSON
// still checks the others.
func (d *decoder) readNDJSON(b *body, query string) (*batch.Spec, error) {
	d.readOptions(query)
	text := bufio.NewReaderSize(b, 16<<10)
	if !d.Begin(text) {
		return d.finish("", false)
	}
	d.keep, d.Hold = b.keep, b.hold
	lines := bufio.NewScanner(text)
	lines.Split(func(data []byte, atEOF bool) (int, []byte, error) {
		if err := b.parse(2 * int64(len(data))); err != nil { // the buffer doubles
			return 0, nil, err
		}
		return bufio.ScanLines(data, atEOF)
	})
	lines.Buffer(make([]byte, 0, 16<<10), int(d.limits.maxItem()))
	for lines.Scan() && b.err == nil {
		blanks, line := intake.TrimBlank(lines.Bytes())
		if len(line) == 0 {
			d.Skipped = 0
			continue
		}
		if d.full("") {
			return d.finish("", false)
		}
		d.Index = d.count
		d.Skipped += int64(blanks)
		if err := d.readLine(line); err != nil {
			return nil, err
		}
		d.Skipped = 0
		d.count++
		d.Index = -1
	}
	if b.err != nil {
		return nil, b.err
	}
	tooLong := errors.Is(lines.Err(), bufio.ErrTooLong)
	if tooLong {
		d.Index = d.count
		d.Fault("", "the line has more than %d bytes: reading stopped here", d.limits.maxItem())
	}
	return d.finish("", !tooLong)
}

func (d *decoder) readLine(line []byte) error {
	dec := intake.NewDecoder(bytes.NewBuffer(line))
	err := d.readAction(dec, "")
	if err == nil {
		if _, end := dec.ReadToken(); !errors.Is(end, io.EOF) {
			d.Fault("", "there is more on the line after the action: expected one action a line")
		}
		return nil
	}
	if intake.IsSyntax(err) {
		d.SyntaxFault(" of the line", err)
		return nil
	}
	return err
}

// readOptions reads the options of a submission from its query.
func (d *decoder) readOptions(raw string) {
	query, err := splitQuery(raw)
	if err != nil {
		d.Fault("", "%v", err)
		return
	}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		values := query[name]
		d.targeted = d.targeted || name == "target"
		err := checkParameterText(name, values)
		switch {
		case err != nil:
		case len(values) > 1:
			err = errors.New("it appears more than once")
		case name == "target":
			err = d.setTarget(values[0])
		case name == "webhook":
			err = d.setWebhook(values[0])
		case name == "expires_in":
			err = d.setExpiresIn(values[0])
		case name == "retention":
			err = d.setRetention(values[0])
		case strings.HasPrefix(name, "metadata."):
			err = d.setMetadata(strings.TrimPrefix(name, "metadata."), values[0])
		default:
			err = errors.New("it is not known: expected target, webhook, expires_in, retention or metadata.<key>")
		}
		if err != nil {
			d.Fault("", "query parameter %q: %v", intake.Clip(name), err)
		}
	}
}
