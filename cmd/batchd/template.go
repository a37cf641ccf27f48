package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"
)

// place is the position for which a template produces text. It decides how a value is
// inserted.
type place uint8

const (
	placeText  place = iota // a header, an id, a method or a text body: unchanged
	placePath               // percent-encoded, and not empty
	placeQuery              // percent-encoded
	placeJSON               // a JSON value; within quotes, the inside of a string
)

// The kinds of insertion, beside the default of the place.
const (
	asDefault = ""
	asRaw     = "raw"    // unchanged
	asURL     = "url"    // percent-encoded
	asNumber  = "number" // a JSON number, unchanged; percent-encoded in a URL
	asBool    = "bool"   // true or false
	asJSON    = "json"   // JSON, unchanged; percent-encoded in a URL
)

var templateKinds = []string{asRaw, asURL, asNumber, asBool, asJSON}

// template is text with placeholders for the columns of a row:
//
//	{name}         the value, in the way of the place
//	{name:kind}    the value, inserted as one of the kinds
//	{name:kind?}   the same, but an empty value is allowed: null in JSON
//	{{             a single {
//
// A { before a quote, a space, a } or the end of the template is literal, so that
// JSON needs no escapes: outside of a string, JSON has a { before nothing else.
type template struct {
	place place
	parts []part
}

// part is literal text, followed by a placeholder unless column is "".
type part struct {
	literal  string
	column   string
	kind     string
	optional bool
	// quoted: the placeholder is within a JSON string.
	quoted bool
}

func parseTemplate(source string, where place) (*template, error) {
	t := &template{place: where}
	var literal strings.Builder
	quoted := false
	for i := 0; i < len(source); i++ {
		c := source[i]
		if c != '{' {
			literal.WriteByte(c)
			switch {
			case c == '\\' && quoted && i+1 < len(source):
				i++ // an escaped quote does not end the string
				literal.WriteByte(source[i])
			case c == '"':
				quoted = !quoted
			}
			continue
		}
		rest := source[i+1:]
		if strings.HasPrefix(rest, "{") {
			literal.WriteByte('{')
			i++
			continue
		}
		if rest == "" || strings.ContainsAny(rest[:1], "\"} \t\r\n") {
			literal.WriteByte('{')
			continue
		}
		end := strings.IndexAny(rest, "{}\"\n")
		if end < 0 || rest[end] != '}' {
			return nil, fmt.Errorf("the placeholder {%s has no end: write {column}, or {{ for a literal {", clip(rest))
		}
		p, err := parsePlaceholder(rest[:end])
		if err != nil {
			return nil, err
		}
		p.literal, p.quoted = literal.String(), quoted
		if where == placeJSON && p.quoted && p.kind == asJSON {
			return nil, fmt.Errorf("{%s} is within quotes, which would break the JSON: remove the quotes", rest[:end])
		}
		literal.Reset()
		t.parts = append(t.parts, p)
		i += end + 1
	}
	t.parts = append(t.parts, part{literal: literal.String()})
	return t, nil
}

func parsePlaceholder(inside string) (part, error) {
	column, optional := strings.CutSuffix(inside, "?")
	p := part{column: column, optional: optional}
	if at := strings.LastIndexByte(column, ':'); at >= 0 {
		p.column, p.kind = column[:at], column[at+1:]
		if !slices.Contains(templateKinds, p.kind) {
			return p, fmt.Errorf("{%s}: unknown kind %q: expected one of %s", inside, p.kind, strings.Join(templateKinds, ", "))
		}
	}
	if p.column == "" {
		return p, fmt.Errorf("{%s} names no column", inside)
	}
	return p, nil
}

// columns lists the columns that the template needs.
func (t *template) columns() []string {
	var names []string
	for _, p := range t.parts {
		if p.column != "" {
			names = append(names, p.column)
		}
	}
	return names
}

// valueError names a column whose value does not fit.
type valueError struct {
	column string
	err    error
}

// Error implements error.
func (e *valueError) Error() string { return fmt.Sprintf("column %q: %v", e.column, e.err) }

// Unwrap returns the cause.
func (e *valueError) Unwrap() error { return e.err }

// expand fills the template from a row.
func (t *template) expand(row map[string]string) (string, error) {
	var out strings.Builder
	for _, p := range t.parts {
		out.WriteString(p.literal)
		if p.column == "" {
			continue
		}
		text, err := t.insert(&p, row[p.column])
		if err != nil {
			return "", &valueError{p.column, err}
		}
		out.WriteString(text)
	}
	return out.String(), nil
}

// insert returns the text that replaces a placeholder.
func (t *template) insert(p *part, value string) (string, error) {
	if !utf8.ValidString(value) {
		return "", errors.New("the value is not UTF-8: save the file as UTF-8")
	}
	if value == "" {
		return t.insertEmpty(p)
	}
	switch p.kind {
	case asRaw:
		return value, nil
	case asURL:
		return percentEncode(value), nil
	case asNumber:
		if !isNumber(value) {
			return "", fmt.Errorf("%q is not a number as JSON writes it", clip(value))
		}
	case asBool:
		if value != "true" && value != "false" {
			return "", fmt.Errorf("%q is neither true nor false", clip(value))
		}
	case asJSON:
		if !validJSON(value) {
			return "", fmt.Errorf("%q is not JSON", clip(value))
		}
	}
	switch t.place {
	case placePath, placeQuery:
		return percentEncode(value), nil
	case placeJSON:
		if p.kind == asDefault {
			return quote(value, p.quoted), nil
		}
	case placeText:
	}
	return value, nil
}

func (t *template) insertEmpty(p *part) (string, error) {
	typed := p.kind == asNumber || p.kind == asBool || p.kind == asJSON
	switch {
	case p.optional:
		if t.place == placeJSON && !p.quoted && p.kind != asRaw {
			return "null", nil
		}
		return "", nil
	case typed:
		return "", fmt.Errorf("the value is empty: write {%s:%s?} where null will do", p.column, p.kind)
	case t.place == placePath:
		return "", fmt.Errorf("the value is empty, which would make another path: write {%s?} where that is meant", p.column)
	case t.place == placeJSON && p.kind == asDefault:
		return quote("", p.quoted), nil
	}
	return "", nil
}

// quote returns the JSON string of a value, or only its inside.
func quote(value string, inside bool) string {
	var out strings.Builder
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(value) // a string always encodes
	text := strings.TrimSuffix(out.String(), "\n")
	if inside {
		return text[1 : len(text)-1]
	}
	return text
}

// percentEncode keeps only unreserved characters (RFC 3986 §2.3), which is correct in a
// path segment and in a query.
func percentEncode(value string) string {
	return strings.ReplaceAll(url.QueryEscape(value), "+", "%20")
}

func isNumber(value string) bool {
	c := value[0]
	return (c == '-' || c >= '0' && c <= '9') && json.Valid([]byte(value)) && !strings.ContainsAny(value, " \t\r\n")
}

// clip keeps foreign text in a message short.
func clip(s string) string {
	const most = 60
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}
