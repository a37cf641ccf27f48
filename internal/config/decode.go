package config

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"github.com/batchd/batchd/api"
	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/setting"
)

// parse returns the mapping that is the only document, or nil if the source is empty.
// With an error it returns the line of the error.
func parse(source []byte) (ast.Node, place, error) {
	// This package reports duplicate keys itself, together with all other faults.
	file, err := parser.ParseBytes(source, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		var syntax yaml.Error
		if !errors.As(err, &syntax) {
			return nil, place{}, errors.New("the file is not valid YAML")
		}
		return nil, placeOf(syntax.GetToken()), fmt.Errorf("the file is not valid YAML: %s", longQuote.ReplaceAllString(syntax.GetMessage(), `"…"`))
	}
	var root ast.Node
	for _, doc := range file.Docs {
		if doc.Body == nil || doc.Body.Type() == ast.NullType {
			continue
		}
		at := placeOf(firstToken(doc.Body))
		if what := unsupported(doc.Body); what != "" {
			return nil, at, fmt.Errorf("%s are not supported here", what)
		}
		if _, ok := doc.Body.(ast.MapNode); !ok {
			return nil, at, fmt.Errorf("expected keys and values, not %s", kindOf(doc.Body))
		}
		if root != nil {
			return nil, at, errors.New("a second document starts here: expected only one")
		}
		root = doc.Body
	}
	return root, place{}, nil
}

// longQuote matches a quote of more than a few characters in a syntax error. The quote
// comes from the file, and might be a part of a secret.
var longQuote = regexp.MustCompile(`"[^"]{9,}"`)

// plainKey matches an unknown key that a fault may repeat. A secret that became a key
// by a typing error is longer.
var plainKey = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.-]{0,31}$`)

// decode reads a node into a setting, and records the place of the setting and of all
// settings in it.
func (l *loader) decode(path string, v reflect.Value, n ast.Node) {
	if n.Type() == ast.NullType {
		if isPermission(path) {
			l.places[path] = l.placeOfNode(n)
			l.fault(path, "there is no list: write [] for none, or leave the key out, which allows all")
		}
		return // a key without a value keeps its default
	}
	if path != "" {
		l.places[path] = l.placeOfNode(n)
	}
	if what := unsupported(n); what != "" {
		l.fault(path, "%s are not supported: write the value out", what)
		return
	}
	switch {
	case isMapping(v.Type()):
		l.decodeMapping(path, v, n)
	case v.Kind() == reflect.Slice:
		l.decodeSequence(path, v, n)
	case v.Kind() == reflect.Pointer: // a mapping that may be left out as a whole
		v.Set(reflect.New(v.Type().Elem()))
		l.decode(path, v.Elem(), n)
	default:
		text, ok := scalarText(n)
		if !ok {
			l.fault(path, "expected %s, not %s", describe(v.Addr().Interface()), kindOf(n))
		} else if err := setText(v.Addr().Interface(), text); err != nil {
			l.fault(path, "%v", err)
		}
	}
}

func (l *loader) decodeMapping(path string, v reflect.Value, n ast.Node) {
	mapping, ok := n.(ast.MapNode)
	if !ok {
		l.fault(path, "expected keys and values, not %s", kindOf(n))
		return
	}
	fields := fieldsOf(v)
	seen := map[string]place{}
	for entries := mapping.MapRange(); entries.Next(); {
		at := l.placeOfNode(entries.Key())
		key, ok := scalarText(entries.Key())
		if !ok {
			what := unsupported(entries.Key())
			if what == "" {
				what = "keys that are not text"
			}
			l.faultAt(at, path, "%s are not supported: write every key out", what)
			continue
		}
		i := slices.IndexFunc(fields, func(f field) bool { return f.key == key })
		if i < 0 {
			l.unknownKey(at, path, key, fields)
			continue
		}
		full := join(path, key)
		if first, ok := seen[key]; ok {
			l.faultAt(at, full, "the key is there already, in line %d", first.line)
			continue
		}
		seen[key] = at
		l.decode(full, fields[i].value, entries.Value())
	}
}

func (l *loader) unknownKey(at place, path, key string, fields []field) {
	if !plainKey.MatchString(key) {
		l.faultAt(at, path, "unknown key: expected %s", setting.OneOf(fieldKeys(fields)))
		return
	}
	l.faultAt(at, join(path, key), "unknown key%s", suggest(key, fieldKeys(fields)))
}

func fieldKeys(fields []field) []string {
	keys := make([]string, len(fields))
	for i, f := range fields {
		keys[i] = f.key
	}
	return keys
}

func (l *loader) decodeSequence(path string, v reflect.Value, n ast.Node) {
	sequence, ok := n.(*ast.SequenceNode)
	if !ok {
		l.fault(path, "expected a list, not %s", kindOf(n))
		return
	}
	if meaning, refused := emptyList(path); refused && len(sequence.Values) == 0 {
		l.fault(path, "the list is empty: fill it in, or leave the key out, %s", meaning)
		return
	}
	// An empty list is not the default list: with "statuses: []" batchd repeats after
	// no status.
	v.Set(reflect.MakeSlice(v.Type(), len(sequence.Values), len(sequence.Values)))
	for i, n := range sequence.Values {
		item, key := v.Index(i), index(path, i)
		l.prefill(item.Addr().Interface())
		l.decode(key, item, n)
		if n.Type() == ast.NullType {
			l.places[key] = l.placeOfNode(n)
			l.fault(key, "the item is empty: fill it in or take its dash away")
		}
	}
}

// emptyList reports whether a list must not be empty, because a reader could take an
// empty list for the opposite of its meaning. It also returns what leaving the list out
// means.
func emptyList(path string) (meaning string, refused bool) {
	switch {
	case path == "seal.keys":
		return "which stores in clear", true
	case path == "webhooks.ports":
		return "which opens 80 and 443", true
	case strings.HasPrefix(path, "webhooks.hosts"):
		return "", false // an owner may name no host
	case path == "auth.modes":
		return "which means none", true
	case strings.HasSuffix(path, ".headers.allow"):
		return "", false // allows none, like the default
	case strings.HasSuffix(path, ".allow"):
		return "which allows all", true
	}
	return "", false
}

// isPermission reports whether a list of a keys file allows all if it is left out, and none if it is empty.
func isPermission(path string) bool {
	return strings.HasPrefix(path, "keys[") && (strings.HasSuffix(path, "].targets") || strings.HasSuffix(path, "].webhook_hosts"))
}

// prefill puts the defaults into an item of a list before it is read. A zero in the
// file thus stays a zero, which is a fault, instead of becoming the default.
func (l *loader) prefill(item any) {
	switch item := item.(type) {
	case *batch.Target:
		*item = item.WithDefaults()
	case *api.Endpoint:
		*item = item.WithDefaults(&l.cfg.Limits, nil)
	}
}

// scalarText returns a scalar as written, without its quotes. It uses the text and not
// YAML's interpretation of it, so that 2026-11 and 0644 stay unchanged.
func scalarText(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode, *ast.NullNode:
		return n.GetToken().Value, true
	}
	return "", false
}

// unsupported returns the feature of YAML that a node needs and that batchd does not
// support, or "".
func unsupported(n ast.Node) string {
	switch n.(type) {
	case *ast.AnchorNode, *ast.AliasNode:
		return "anchors and aliases"
	case *ast.MergeKeyNode:
		return "merge keys"
	case *ast.TagNode:
		return "tags"
	case *ast.DirectiveNode:
		return "directives"
	}
	return ""
}

// kindOf names the kind of an unexpected node. It does not repeat the node, which may
// be a secret in the wrong place.
func kindOf(n ast.Node) string {
	switch n.(type) {
	case ast.MapNode:
		return "keys and values"
	case *ast.SequenceNode:
		return "a list"
	}
	return "a single value"
}

func (l *loader) placeOfNode(n ast.Node) place {
	p := placeOf(firstToken(n))
	p.file = l.places[""].file
	return p
}

// firstToken returns the first token of a node in the text. The token of a block
// mapping itself is a colon.
func firstToken(n ast.Node) *token.Token {
	if m, ok := n.(*ast.MappingNode); ok && !m.IsFlowStyle && len(m.Values) > 0 {
		n = m.Values[0].Key
	}
	return n.GetToken()
}

func placeOf(t *token.Token) place {
	if t == nil || t.Position == nil {
		return place{}
	}
	return place{line: t.Position.Line, column: t.Position.Column}
}
