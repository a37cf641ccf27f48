package intake

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/batchd/batchd/internal/apikey"
	"github.com/batchd/batchd/internal/batch"
)

// Check adds the faults that depend on the whole action, whose own pointer is base.
// Before is the number of faults in the list when the action began: an unreadable field
// is not also reported as missing. Place maps a field of an action, such as "/query",
// to its pointer in the document; nil means that they are equal.
func (r *Reader) Check(a *batch.Action, base string, before int, place func(pointer string) string) {
	faulted := slices.Clone(r.Invalid.Faults[before:])
	for _, f := range a.Validate() {
		if place != nil {
			f.Pointer = place(f.Pointer)
		}
		known := slices.ContainsFunc(faulted, func(g batch.Fault) bool {
			return g.Pointer == base+f.Pointer || strings.HasPrefix(g.Pointer, base+f.Pointer+"/")
		})
		if !known {
			r.Fault(base+f.Pointer, "%s", f.Detail)
		}
	}
	r.checkNoKey(a, func(pointer string) string {
		if place != nil {
			pointer = place(pointer)
		}
		return base + pointer
	})
	if first, taken := r.taken(a.ID); taken {
		r.Fault(base+"/id", "the actions %d and %d have the same id %q (without an id, the index serves)", first, r.Index, Clip(batch.ActionID(a.ID, r.Index)))
	}
}

// CheckTarget adds the faults for which a target refuses the present action; see
// [batch.Target.Refusals]. Base and place are as for Check.
func (r *Reader) CheckTarget(t *batch.Target, a *batch.Action, base string, place func(pointer string) string) {
	for _, f := range t.Refusals(a) {
		if place != nil {
			f.Pointer = place(f.Pointer)
		}
		r.Fault(base+f.Pointer, "%s", f.Detail)
	}
}

// checkNoKey adds a fault for every part of an action that has a key of batchd in it. A key is never sent to a
// target or the receiver of a webhook, which could act as its owner.
func (r *Reader) checkNoKey(a *batch.Action, place func(pointer string) string) {
	const why = "a key of batchd is in it, which is never sent to another server: take it out, and revoke it if it was sent before"
	for _, h := range a.Headers {
		if len(h.Name)+len(h.Value) > batch.MaxHeaderLength {
			continue // a fault of its own, as are a path and a query that are too long
		}
		if !slices.Contains(r.Searched, h) && (apikey.InValue(h.Value) || apikey.InValue(h.Name)) {
			r.Fault(place("/headers/"+batch.EscapePointer(Clip(h.Name))), why)
		}
	}
	// The results and the webhook have the id.
	if apikey.InValue(a.ID) {
		r.Fault(place("/id"), why)
	}
	if apikey.InValue(a.Group) {
		r.Fault(place("/group"), why)
	}
	if len(a.Path) <= batch.MaxPathLength && apikey.InValue(a.Path) {
		r.Fault(place("/path"), why)
	}
	if len(a.Query) <= batch.MaxPathLength && apikey.InValue(a.Query) {
		r.Fault(place("/query"), why)
	}
	if apikey.In(a.Body) {
		r.Fault(place("/body"), why)
	}
	if a.Undo != nil {
		r.checkNoKey(a.Undo, func(pointer string) string { return place("/undo" + pointer) })
	}
}

// taken records the id of the present action. It returns the earlier action with the
// same id, if there is one.
func (r *Reader) taken(id string) (first int, taken bool) {
	if id == "" {
		if len(r.ids) > 0 {
			first, taken = r.ids[batch.ActionID("", r.Index)]
		}
		if n := len(r.bare); n > 0 && r.bare[n-1].to == r.Index {
			r.bare[n-1].to++
		} else {
			r.bare = append(r.bare, span{r.Index, r.Index + 1})
		}
		return first, taken
	}
	if first, taken = r.ids[id]; taken {
		return first, true
	}
	if first, err := strconv.Atoi(id); err == nil && r.isBare(first) && batch.ActionID("", first) == id {
		return first, true
	}
	r.ids[id] = r.Index
	return 0, false
}

// isBare reports whether an action with that index was read and has no other id.
func (r *Reader) isBare(index int) bool {
	_, found := slices.BinarySearchFunc(r.bare, index, func(s span, index int) int {
		switch {
		case s.to <= index:
			return -1
		case s.from > index:
			return 1
		}
		return 0
	})
	return found
}

// CheckBody adds a fault if a body has more than most bytes. Its pointer is given in
// parts.
func (r *Reader) CheckBody(body []byte, most int64, pointer ...string) {
	if int64(len(body)) > most {
		r.Fault(strings.Join(pointer, ""), "the body has %d bytes: at most %d are allowed", len(body), most)
	}
}

// CheckClear adds faults for headers that carry a credential, for a store that does not
// encrypt actions.
func (r *Reader) CheckClear(a *batch.Action, base string) {
	for _, h := range a.Headers {
		if batch.IsCredential(h.Name) {
			r.Fault(base+"/headers/"+batch.EscapePointer(Clip(h.Name)), "the header carries a credential, %s", InClear)
		}
	}
}

// InClear is the reason why a credential is refused if actions are not encrypted.
const InClear = "which would lie in clear text in Redis: set seal.keys on the server to have actions encrypted"

// Headers reads an object of names, each with a string or a list of strings.
func (r *Reader) Headers(dec *jsontext.Decoder, add func(batch.Field)) error {
	folded := make(map[string]struct{})
	_, err := r.Object(dec, nil, func(name string) error {
		lower := strings.ToLower(name)
		if _, twice := folded[lower]; twice {
			r.FaultHere(dec, "the header %q appears twice, with different case: give a list of values", Clip(name))
			return dec.SkipValue()
		}
		folded[lower] = struct{}{}
		return r.OneOrMany(dec, func() error {
			return r.Text(dec, func(value string) error {
				add(batch.Field{Name: name, Value: value})
				return nil
			})
		})
	})
	return err
}

// Query reads an object of names, each with a scalar or a list of scalars, and encodes
// it in its order.
func (r *Reader) Query(dec *jsontext.Decoder) (string, error) {
	var pairs []string
	_, err := r.Object(dec, nil, func(name string) error {
		key := EscapeQueryPart(name) + "="
		return r.OneOrMany(dec, func() error {
			return r.Scalar(dec, func(value string) { pairs = append(pairs, key+EscapeQueryPart(value)) })
		})
	})
	return strings.Join(pairs, "&"), err
}

// JSON reads a body into buf, without its white space and with its literals unchanged.
// If the body has a fault, ok is false.
func (r *Reader) JSON(dec *jsontext.Decoder, buf []byte) (body []byte, ok bool, err error) {
	value, err := dec.ReadValue()
	if err != nil {
		return nil, false, err
	}
	if depth := nesting(value); depth > batch.MaxDepth {
		r.FaultHere(dec, "the body is nested %d levels deep: at most %d are allowed", depth, batch.MaxDepth)
		return nil, false, nil
	}
	compact := jsontext.Value(append(buf[:0], value...))
	if err := compact.Compact(jsontext.AllowDuplicateNames(false)); err != nil {
		var syntax *jsontext.SyntacticError
		if !errors.As(err, &syntax) || !errors.Is(err, jsontext.ErrDuplicateName) {
			return nil, false, err
		}
		r.Fault(r.Prefix+string(dec.StackPointer()+syntax.JSONPointer), "the name appears twice: receivers differ in which of the two they use")
		return nil, false, nil
	}
	return compact, true, nil
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

// CanonicalMethod returns a known method in upper case, and any other unchanged, so
// that validation can quote it.
func CanonicalMethod(s string) string {
	if upper := strings.ToUpper(s); slices.Contains(batch.Methods, upper) {
		return upper
	}
	return s
}
