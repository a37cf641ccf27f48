package intake

import (
	"bytes"
	"net/url"
	"strings"

	"github.com/batchd/batchd/internal/batch"
)

// SetURL sets the path of an action, and its query if the text has one.
func SetURL(a *batch.Action, s string) {
	path, query, found := strings.Cut(s, "?")
	a.Path, a.Query, a.ForceQuery = path, query, found && query == ""
	if len(query) <= batch.MaxPathLength { // a longer one is a fault
		a.Query = escapeQuery(query)
	}
}

// JoinQuery joins two encoded queries, either of which may be empty.
func JoinQuery(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "&" + b
}

// QueryBuilder encodes a query. It keeps nothing beyond [batch.MaxPathLength] bytes: what
// it would hold grows with the product of a name and its values.
type QueryBuilder struct {
	text    []byte
	tooLong bool
}

// Add adds a name with a value.
func (q *QueryBuilder) Add(name, value string) {
	q.AddName(name)
	q.AddValue(value)
}

// AddName adds a name, behind which its values come.
func (q *QueryBuilder) AddName(name string) {
	if len(q.text) > 0 {
		q.raw("&")
	}
	q.part(name)
	q.raw("=")
}

// AddValue adds a value, or a part of one.
func (q *QueryBuilder) AddValue(value string) { q.part(value) }

// AddComma adds a comma between two parts of a value.
func (q *QueryBuilder) AddComma() { q.raw(",") }

// TooLong reports whether the query is longer than is allowed.
func (q *QueryBuilder) TooLong() bool { return q.tooLong }

// String returns the query, or "" if it is too long.
func (q *QueryBuilder) String() string { return string(q.text) }

func (q *QueryBuilder) part(s string) {
	if !q.tooLong && q.fits(len(s)) {
		q.raw(EscapeQueryPart(s))
	}
}

func (q *QueryBuilder) raw(s string) {
	if !q.tooLong && q.fits(len(s)) {
		q.text = append(q.text, s...)
	}
}

// fits reports whether there is room for n bytes more.
func (q *QueryBuilder) fits(n int) bool {
	if len(q.text)+n > batch.MaxPathLength {
		q.text, q.tooLong = nil, true
	}
	return !q.tooLong
}

// EscapeQueryPart escapes a part of a query. A space becomes %20, which all servers
// decode, unlike the plus sign.
func EscapeQueryPart(s string) string {
	return strings.ReplaceAll(url.QueryEscape(s), "+", "%20")
}

// escapeQuery encodes the characters that a request line cannot contain or that RFC
// 3986 §3.4 excludes. It keeps a percent sign unchanged, even without two hexadecimal
// digits, because targets differ in their handling of it. It also keeps control
// characters and #, which validation refuses.
func escapeQuery(s string) string {
	const hex = "0123456789ABCDEF"
	var out bytes.Buffer
	for i := range len(s) {
		c := s[i]
		switch {
		case c == ' ', c > 0x7f, strings.IndexByte("\"<>\\^`{|}", c) >= 0:
			out.Write([]byte{'%', hex[c>>4], hex[c&15]})
		default:
			out.WriteByte(c)
		}
	}
	return out.String()
}
