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

// plainWriter shows text to a person. It replaces the characters that control a
// terminal by escapes such as \u001b, which mean the same in JSON. These are all
// control characters except line ends and tabs, and all marks that change the direction
// or appearance of the text after them.
type plainWriter struct {
	mu   sync.Mutex
	w    io.Writer
	json bool   // the text is JSON, and must remain JSON with the same meaning
	rest []byte // the first bytes of an incomplete character
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

// isPlain reports whether the text needs no escapes. It returns false for any text that
// is not ASCII, which needs a closer check.
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
		case p.json && r == '\r': // white space: within a string it would be escaped
			out = append(out, ' ')
		case p.json && r == utf8.RuneError && size <= 1: // as a JSON parser reads it
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

// visible returns foreign text on one line, with the escapes of [plainWriter].
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

// jsonOutput returns the writer for JSON, on a terminal and elsewhere. It escapes
// terminal control characters, so that the output is also safe to view later.
func jsonOutput(w io.Writer) io.Writer { return &plainWriter{w: unwrapped(w), json: true} }

// faithful returns the writer for other output for programs: unchanged, except on a
// terminal.
func faithful(w io.Writer) io.Writer {
	if p, ok := w.(*plainWriter); ok && terminalWidth(p.w) == 0 {
		return p.w
	}
	return w
}

// unwrapped returns the writer behind a plainWriter, for drawing on a terminal.
func unwrapped(w io.Writer) io.Writer {
	if p, ok := w.(*plainWriter); ok {
		return p.w
	}
	return w
}
