package api

import (
	"encoding/base64"
	"errors"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/intake"
)

var actionFields = []string{"id", "method", "path", "query", "headers", "body", "body_text", "body_base64", "timeout", "retry", "group", "undo"}

// undoFields are the fields of an undo. An undo has no id and no retry mode: no client
// sees its result, and the worker repeats it until it succeeds.
var undoFields = []string{"method", "path", "query", "headers", "body", "body_text", "body_base64", "timeout"}

// draft is an action while the decoder reads it.
type draft struct {
	*batch.Action
	query, bodyField string
	buf              []byte // reused for the bodies
	undo             *draft
}

// readAction reads the next action, checks it, and stages it if the submission has no
// fault so far. Base is the action's own JSON pointer. The error is a syntax error, or
// comes from reading or staging.
func (d *decoder) readAction(dec *jsontext.Decoder, base string) error {
	*d.draft.Action = batch.Action{Headers: d.draft.Headers[:0]}
	d.draft = draft{Action: d.draft.Action, buf: d.draft.buf}
	before := len(d.Invalid.Faults)
	ok, err := d.readFields(dec, actionFields, &d.draft)
	if !ok {
		return err
	}
	d.complete(&d.draft)
	d.check(&d.draft, base, before)
	d.groups.Add(d.draft.Action, d.Index)
	if kept := len(d.draft.ID) + len(d.draft.Group); kept > 0 {
		if err := d.keep(int64(kept) + keptMemory); err != nil {
			return err
		}
	}
	if !d.Clean() {
		return nil
	}
	return d.stage(d.draft.Action)
}

// readFields reads an object with the named fields. It reports whether there was one.
func (d *decoder) readFields(dec *jsontext.Decoder, fields []string, a *draft) (bool, error) {
	return d.Object(dec, fields, func(name string) (err error) {
		switch name {
		case "id":
			return d.Text(dec, func(s string) error {
				if a.ID = s; s == "" {
					return errors.New("the id is empty: leave it out, then the index serves")
				}
				return nil
			})
		case "method":
			return d.Text(dec, func(s string) error { a.Method = intake.CanonicalMethod(s); return nil })
		case "path":
			return d.Text(dec, func(s string) error { a.Path = s; return nil })
		case "query":
			a.query, err = d.Query(dec)
			return err
		case "headers":
			return d.Headers(dec, func(h batch.Field) { a.Headers = append(a.Headers, h) })
		case "timeout":
			return d.Text(dec, func(s string) error { return setDuration(&a.Timeout, s, batch.MaxTimeout) })
		case "retry":
			return d.Text(dec, func(s string) error {
				if a.Retry = batch.RetryMode(s); a.Retry == batch.RetryAuto {
					return errors.New(`the retry mode is empty: expected "safe" or "never"`)
				}
				return nil
			})
		case "group":
			return d.Text(dec, func(s string) error {
				if a.Group = s; s == "" {
					return errors.New("the group has no name: leave it out for an action without a group")
				}
				return nil
			})
		case "undo":
			undo := &draft{Action: &batch.Action{}}
			ok, err := d.readFields(dec, undoFields, undo)
			if ok {
				d.complete(undo)
				a.undo, a.Undo = undo, undo.Action
			}
			return err
		default:
			if a.bodyField != "" {
				d.FaultHere(dec, "%s and %s are both there: only one of them can be the body", a.bodyField, name)
				return dec.SkipValue()
			}
			a.bodyField = name
			return d.readBody(dec, name, a)
		}
	})
}

// complete sets the fields that follow from the rest of the action.
func (d *decoder) complete(a *draft) {
	intake.SetURL(a.Action, a.Path)
	a.Query = intake.JoinQuery(a.Query, a.query)
	if _, ok := a.Header("Content-Type"); !ok {
		switch a.bodyField {
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

// check adds the faults that depend on the whole action. Before is the number of faults
// in the list when the action began.
func (d *decoder) check(a *draft, base string, before int) {
	d.Check(a.Action, base, before, nil)
	d.refusals.check(d, a, base)
	for ; a != nil; a, base = a.undo, base+"/undo" {
		d.CheckBody(a.Body, d.limits.MaxActionBody, base, "/", a.bodyField)
		if !d.sealed {
			d.CheckClear(a.Action, base)
		}
	}
}

// place returns the pointer of a part of the action in the document, where the body has
// several names.
func (a *draft) place(pointer string) string {
	switch {
	case pointer == "/body":
		return "/" + a.bodyField
	case pointer == "/undo/body" && a.undo != nil:
		return "/undo/" + a.undo.bodyField
	}
	return pointer
}

// readBody reads the body in the form of its field: JSON, text or base64.
func (d *decoder) readBody(dec *jsontext.Decoder, field string, a *draft) error {
	switch field {
	case "body":
		body, ok, err := d.JSON(dec, a.buf, d.limits.MaxActionBody)
		if ok {
			a.buf, a.Body = body, body
		}
		return err
	case "body_text":
		return d.Text(dec, func(s string) error { a.keep(append(a.buf[:0], s...)); return nil })
	default:
		return d.Text(dec, func(s string) error {
			decoded, err := base64.StdEncoding.Strict().DecodeString(s)
			if err != nil {
				return errors.New("not valid base64: expected the standard alphabet, with padding (RFC 4648 §4)")
			}
			a.keep(decoded)
			return nil
		})
	}
}

// keep sets the body. An empty body is a body, unlike nil.
func (a *draft) keep(text []byte) {
	a.buf = text
	if a.Body = a.buf; a.Body == nil {
		a.Body = []byte{}
	}
}
