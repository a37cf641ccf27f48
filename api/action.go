package api

import (
	"bytes"
	"encoding/base64"
	"errors"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/batchd/batchd/internal/batch"
)

var actionFields = []string{"id", "method", "path", "query", "headers", "body", "body_text", "body_base64", "timeout", "retry"}

// readAction reads the next action, checks all of it, and stages it if the
// submission has no fault so far. Base is the action's own JSON pointer. The
// error is one of syntax, of reading or of staging.
func (d *decoder) readAction(dec *jsontext.Decoder, base string) error {
	a := &d.action
	*a = batch.Action{Headers: a.Headers[:0]}
	before := len(d.invalid.Faults)
	var query, bodyField string
	ok, err := d.object(dec, actionFields, func(name string) error {
		switch name {
		case "id":
			return d.option(dec, func(s string) error {
				if a.ID = s; s == "" {
					return errors.New("the id is empty: leave it out, then the index serves")
				}
				return nil
			})
		case "method":
			return d.option(dec, func(s string) error { a.Method = canonicalMethod(s); return nil })
		case "path":
			return d.option(dec, func(s string) error { a.Path = s; return nil })
		case "query":
			return d.readQuery(dec, &query)
		case "headers":
			return d.readHeaders(dec)
		case "timeout":
			return d.option(dec, func(s string) error { return setDuration(&a.Timeout, s, batch.MaxTimeout) })
		case "retry":
			return d.option(dec, func(s string) error {
				if a.Retry = batch.RetryMode(s); a.Retry == batch.RetryAuto {
					return errors.New(`the retry mode is empty: expected "safe" or "never"`)
				}
				return nil
			})
		default:
			if bodyField != "" {
				d.faultHere(dec, "%s and %s are both there: only one of them can be the body", bodyField, name)
				return dec.SkipValue()
			}
			bodyField = name
			return d.readBody(dec, name)
		}
	})
	if !ok {
		return err
	}
	d.complete(query, bodyField)
	d.check(base, before, bodyField)
	if !d.clean() {
		return nil
	}
	return d.stage(a)
}

// complete fills in what follows from the rest of the action.
func (d *decoder) complete(query, bodyField string) {
	a := &d.action
	path, inPath, _ := strings.Cut(a.Path, "?")
	a.Path, a.Query = path, escapeQuery(inPath)
	if query != "" {
		if a.Query != "" {
			a.Query += "&"
		}
		a.Query += query
	}
	if _, ok := a.Header("Content-Type"); !ok {
		switch bodyField {
		case "body":
			a.Headers = append(a.Headers, batch.Field{Name: "Content-Type", Value: mediaJSON})
		case "body_text":
			a.Headers = append(a.Headers, batch.Field{Name: "Content-Type", Value: "text/plain; charset=utf-8"})
		}
	}
	if d.authorization != "" {
		if _, ok := a.Header("Authorization"); !ok {
			a.Headers = append(a.Headers, batch.Field{Name: "Authorization", Value: d.authorization})
		}
	}
}

// check adds the faults that show only in the whole action. Before is the
// number of faults listed when the action began.
func (d *decoder) check(base string, before int, bodyField string) {
	a := &d.action
	// A field that could not be read is not also missing.
	faulted := slices.Clone(d.invalid.Faults[before:])
	for _, f := range a.Validate() {
		known := slices.ContainsFunc(faulted, func(g batch.Fault) bool {
			return g.Pointer == base+f.Pointer || strings.HasPrefix(g.Pointer, base+f.Pointer+"/")
		})
		if !known {
			d.fault(base+f.Pointer, "%s", f.Detail)
		}
	}
	if int64(len(a.Body)) > d.limits.MaxActionBody {
		d.fault(base+"/"+bodyField, "the body has %d bytes: at most %d are allowed", len(a.Body), d.limits.MaxActionBody)
	}
	if !d.sealed {
		for _, h := range a.Headers {
			if batch.IsCredential(h.Name) {
				d.fault(base+"/headers/"+batch.EscapePointer(clip(h.Name)), "the header carries a credential, which would lie in clear text in Redis: set seal.keys on the server to have actions encrypted")
			}
		}
	}
	id := batch.ActionID(a.ID, d.index)
	if first, taken := d.ids[id]; taken {
		d.fault(base+"/id", "the actions %d and %d have the same id %q (without an id, the index serves)", first, d.index, clip(id))
	} else {
		d.ids[id] = d.index
	}
}

// canonicalMethod upper-cases a known method, and leaves any other for
// validation to name as it came.
func canonicalMethod(s string) string {
	if upper := strings.ToUpper(s); slices.Contains(batch.Methods, upper) {
		return upper
	}
	return s
}

// readHeaders reads an object of a string or a list of strings each.
func (d *decoder) readHeaders(dec *jsontext.Decoder) error {
	folded := make(map[string]struct{})
	_, err := d.object(dec, nil, func(name string) error {
		lower := strings.ToLower(name)
		if _, twice := folded[lower]; twice {
			d.faultHere(dec, "the header %q is there twice, in another case: give a list of values", clip(name))
			return dec.SkipValue()
		}
		folded[lower] = struct{}{}
		return d.oneOrMany(dec, func() error {
			return d.option(dec, func(value string) error {
				d.action.Headers = append(d.action.Headers, batch.Field{Name: name, Value: value})
				return nil
			})
		})
	})
	return err
}

// readQuery reads an object of scalars or lists of them, and encodes it in the
// order in which it came.
func (d *decoder) readQuery(dec *jsontext.Decoder, to *string) error {
	var out strings.Builder
	_, err := d.object(dec, nil, func(name string) error {
		key := queryEscape(name)
		return d.oneOrMany(dec, func() error {
			switch found := dec.PeekKind(); found {
			case jsontext.KindString, jsontext.KindNumber, jsontext.KindTrue, jsontext.KindFalse:
			default:
				err := dec.SkipValue()
				if err == nil {
					d.faultHere(dec, "expected a string, a number, a boolean or a list of those, found %s", kindName(found))
				}
				return err
			}
			token, err := dec.ReadToken()
			if err != nil {
				return err
			}
			if out.Len() > 0 {
				out.WriteByte('&')
			}
			out.WriteString(key + "=" + queryEscape(token.String()))
			return nil
		})
	})
	*to = out.String()
	return err
}

// oneOrMany calls read for a value, or for each value of a list.
func (d *decoder) oneOrMany(dec *jsontext.Decoder, read func() error) error {
	if dec.PeekKind() != jsontext.KindBeginArray {
		return read()
	}
	if _, err := dec.ReadToken(); err != nil {
		return err
	}
	for dec.PeekKind() != jsontext.KindEndArray {
		if err := read(); err != nil {
			return err
		}
	}
	_, err := dec.ReadToken()
	return err
}

// readBody reads the body in the form that its field promises.
func (d *decoder) readBody(dec *jsontext.Decoder, field string) error {
	switch field {
	case "body":
		value, err := dec.ReadValue()
		if err != nil {
			return err
		}
		return d.keepJSON(dec, value)
	case "body_text":
		return d.option(dec, func(s string) error { d.keep([]byte(s)); return nil })
	default:
		return d.option(dec, func(s string) error {
			decoded, err := base64.StdEncoding.Strict().DecodeString(s)
			if err != nil {
				return errors.New("not valid base64: expected the standard alphabet, with padding (RFC 4648 §4)")
			}
			d.keep(decoded)
			return nil
		})
	}
}

// keepJSON keeps a JSON body without white space, its literals untouched.
func (d *decoder) keepJSON(dec *jsontext.Decoder, value jsontext.Value) error {
	pointer := string(dec.StackPointer())
	if depth := nesting(value); depth > maxDepth {
		d.fault(pointer, "the body is nested %d levels deep: at most %d are allowed", depth, maxDepth)
		return nil
	}
	compact := jsontext.Value(append(d.buf[:0], value...))
	if err := compact.Compact(jsontext.AllowDuplicateNames(false)); err != nil {
		var syntax *jsontext.SyntacticError
		if !errors.As(err, &syntax) || !errors.Is(err, jsontext.ErrDuplicateName) {
			return err
		}
		d.fault(pointer+string(syntax.JSONPointer), "the name is there twice: receivers differ in which of the two they take")
		return nil
	}
	d.buf, d.action.Body = compact, compact
	return nil
}

// keep makes the text the body. An empty body is one, which nil is not.
func (d *decoder) keep(text []byte) {
	d.buf = append(d.buf[:0], text...)
	if d.action.Body = d.buf; d.action.Body == nil {
		d.action.Body = []byte{}
	}
}

// nesting returns the depth of a valid JSON value.
func nesting(value []byte) int {
	depth, most := 0, 0
	for i := 0; i < len(value); i++ {
		switch value[i] {
		case '"':
			for i++; value[i] != '"'; i++ {
				if value[i] == '\\' {
					i++
				}
			}
		case '{', '[':
			depth++
			most = max(most, depth)
		case '}', ']':
			depth--
		}
	}
	return most
}

// queryEscape escapes a part of a query. A space becomes %20, which unlike the
// plus sign means the same to everybody.
func queryEscape(s string) string {
	return strings.ReplaceAll(url.QueryEscape(s), "+", "%20")
}

// escapeQuery encodes what may not stand in a query as it is. What is encoded
// already stays so. Control characters and # are left for validation to refuse.
func escapeQuery(s string) string {
	const hex = "0123456789ABCDEF"
	var out bytes.Buffer
	for i := range len(s) {
		c := s[i]
		switch {
		case c == '%' && (i+2 >= len(s) || !isHex(s[i+1]) || !isHex(s[i+2])),
			c == ' ', c > 0x7f, strings.IndexByte("\"<>\\^`{|}", c) >= 0:
			out.Write([]byte{'%', hex[c>>4], hex[c&15]})
		default:
			out.WriteByte(c)
		}
	}
	return out.String()
}

func isHex(c byte) bool {
	_, err := strconv.ParseUint(string(c), 16, 8)
	return err == nil
}
