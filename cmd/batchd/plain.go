package main

import (
	"bytes"
	"fmt"
	"io"
	"sync"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// plainWriter shows text to a person: what a terminal would obey instead of show is
// written as an escape such as \u001b, which in JSON means the same. That is every
// control character but a line end and a tab, and every mark that changes
// the direction or the look of what follows.
type plainWriter struct {
	mu   sync.Mutex
	w    io.Writer
	json bool   // the text is JSON, and must stay JSON of the same meaning
	rest []byte // of a character whose other bytes are to come
}

func plain(w io.Writer) *plainWriter { return &plainWriter{w: w} }

// Write implements [io.Writer].
func (p *plainWriter) Write(text []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	shown := text
	if len(p.rest) > 0 || !isPlain(text) {
		shown = p.escape(append(p.rest, text...))
	}
	if _, err := p.w.Write(shown); err != nil {
		return 0, err
	}
	return len(text), nil
}

// isPlain reports whether all of it is shown as it is; what is not ASCII has to be
// looked at more closely.
func isPlain(text []byte) bool {
	return bytes.IndexFunc(text, func(r rune) bool { return (r < ' ' || r > '~') && r != '\n' && r != '\t' }) < 0
}

func (p *plainWriter) escape(text []byte) []byte {
	var out []byte
	p.rest = nil
	for len(text) > 0 {
		if !utf8.FullRune(text) {
			p.rest = bytes.Clone(text)
			break
		}
		r, size := utf8.DecodeRune(text)
		switch {
		case r == '\n' || r == '\t':
			out = append(out, byte(r))
		case p.json && r == '\r': // white space: in a string it is escaped
			out = append(out, ' ')
		case p.json && r == utf8.RuneError && size <= 1: // as who reads the JSON takes it
			out = append(out, `\ufffd`...)
		default:
			out = appendVisible(out, r, text[:size])
		}
		text = text[size:]
	}
	return out
}

// appendVisible appends a character, or its escape.
func appendVisible(out []byte, r rune, raw []byte) []byte {
	switch {
	case r == utf8.RuneError && len(raw) <= 1:
		return fmt.Appendf(out, `\x%02x`, raw)
	case unicode.IsGraphic(r):
		return append(out, raw...)
	case r > 0xffff:
		high, low := utf16.EncodeRune(r)
		return fmt.Appendf(out, `\u%04x\u%04x`, high, low)
	}
	return fmt.Appendf(out, `\u%04x`, r)
}

// visible returns foreign text on one line, as [plainWriter] would write it.
func visible(text string) string {
	var out []byte
	for i, r := range text {
		out = appendVisible(out, r, []byte(text[i:i+runeSize(text[i:], r)]))
	}
	return string(out)
}

func runeSize(text string, r rune) int {
	if r != utf8.RuneError {
		return utf8.RuneLen(r)
	}
	_, size := utf8.DecodeRuneInString(text)
	return size
}

// jsonOutput returns where JSON goes, on a terminal and elsewhere: what a terminal
// would obey is escaped, so that the output can be looked at later, too.
func jsonOutput(w io.Writer) io.Writer { return &plainWriter{w: unwrapped(w), json: true} }

// faithful returns where output for programs goes that has no escapes: as it is, except
// on a terminal.
func faithful(w io.Writer) io.Writer {
	if p, ok := w.(*plainWriter); ok && terminalWidth(p.w) == 0 {
		return p.w
	}
	return w
}

// unwrapped returns the writer behind a plainWriter, for who draws on a terminal.
func unwrapped(w io.Writer) io.Writer {
	if p, ok := w.(*plainWriter); ok {
		return p.w
	}
	return w
}
