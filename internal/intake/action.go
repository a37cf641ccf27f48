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
		pointer := ClipPointer(base + f.Pointer)
		known := slices.ContainsFunc(faulted, func(g batch.Fault) bool {
			below, ok := strings.CutPrefix(g.Pointer, pointer)
			return ok && (below == "" || below[0] == '/')
		})
		if !known {
			r.Fault(pointer, "%s", f.Detail)
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
		r.Fault(strings.Join(pointer, ""), tooManyBytes, len(body), most)
	}
}

const tooManyBytes = "the body has %d bytes: at most %d are allowed"

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

// Headers reads an object of names, each with a string or a list of strings. It adds at
// most [batch.MaxHeaderCount] headers: more are a fault.
func (r *Reader) Headers(dec *jsontext.Decoder, add func(batch.Field)) error {
	folded := make(map[string]struct{})
	count := 0
	ok, err := r.Object(dec, nil, func(name string) error {
		if count > batch.MaxHeaderCount {
			return r.OneOrMany(dec, func() error { count++; return dec.SkipValue() })
		}
		lower := strings.ToLower(name)
		if _, twice := folded[lower]; twice {
			r.FaultHere(dec, "the header %q appears twice, with different case: give a list of values", Clip(name))
			return dec.SkipValue()
		}
		folded[lower] = struct{}{}
		return r.OneOrMany(dec, func() error {
			if count++; count > batch.MaxHeaderCount {
				return dec.SkipValue()
			}
			return r.Text(dec, func(value string) error {
				add(batch.Field{Name: name, Value: value})
				return nil
			})
		})
	})
	if ok && count > batch.MaxHeaderCount {
		r.FaultHere(dec, "there are %d headers: at most %d are allowed", count, batch.MaxHeaderCount)
	}
	return err
}

// Query reads an object of names, each with a scalar or a list of scalars, and encodes
// it in its order. A query that is too long is a fault.
func (r *Reader) Query(dec *jsontext.Decoder) (string, error) {
	var q QueryBuilder
	ok, err := r.Object(dec, nil, func(name string) error {
		return r.OneOrMany(dec, func() error {
			return r.Scalar(dec, func(value string) { q.Add(name, value) })
		})
	})
	if ok {
		r.CheckQuery(dec, &q)
	}
	return q.String(), err
}

// CheckQuery adds a fault if the query that the decoder has just read is too long.
func (r *Reader) CheckQuery(dec *jsontext.Decoder, q *QueryBuilder) {
	if q.TooLong() {
		r.FaultHere(dec, "the query is too long: at most %d bytes are allowed, with its escapes", batch.MaxPathLength)
	}
}

// JSON reads a body into buf, without its white space and with its literals unchanged.
// If the body has a fault, such as more than most bytes, ok is false.
func (r *Reader) JSON(dec *jsontext.Decoder, buf []byte, most int64) (body []byte, ok bool, err error) {
	value, err := dec.ReadValue()
	if err != nil {
		return nil, false, err
	}
	depth, names := structure(value)
	if depth > batch.MaxDepth {
		r.FaultHere(dec, "the body is nested %d levels deep: at most %d are allowed", depth, batch.MaxDepth)
		return nil, false, nil
	}
	compact := jsontext.Value(append(buf[:0], value...))
	if int64(len(value)) > most { // without its white space, it may have few enough
		if err := compact.Compact(jsontext.AllowDuplicateNames(true)); err != nil {
			return nil, false, err
		}
		if int64(len(compact)) > most {
			r.FaultHere(dec, tooManyBytes, len(compact), most)
			return nil, false, nil
		}
	}
	if r.Hold != nil && names > 0 {
		if err := r.Hold(int64(names) * nameMemory); err != nil {
			return nil, false, err
		}
	}
	if err := compact.Compact(jsontext.AllowDuplicateNames(false)); err != nil {
		var syntax *jsontext.SyntacticError
		if !errors.As(err, &syntax) || !errors.Is(err, jsontext.ErrDuplicateName) {
			return nil, false, err
		}
		if r.onlyCounts() {
			return nil, false, nil
		}
		r.Fault(r.Prefix+string(dec.StackPointer()+syntax.JSONPointer), "the name appears twice: receivers differ in which of the two they use")
		return nil, false, nil
	}
	return compact, true, nil
}

// nameMemory is about what the search for duplicate names holds for a name.
const nameMemory = 128

// structure returns the depth of a valid JSON value, and the number of names in it.
func structure(value []byte) (depth, names int) {
	now := 0
	for i := 0; i < len(value); i++ {
		switch value[i] {
		case '"':
			for i++; value[i] != '"'; i++ {
				if value[i] == '\\' {
					i++
				}
			}
		case ':':
			names++
		case '{', '[':
			now++
			depth = max(depth, now)
		case '}', ']':
			now--
		}
	}
	return depth, names
}

// CanonicalMethod returns a known method in upper case, and any other unchanged, so
// that validation can quote it.
func CanonicalMethod(s string) string {
	if upper := strings.ToUpper(s); slices.Contains(batch.Methods, upper) {
		return upper
	}
	return s
}
