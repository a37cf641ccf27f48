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
	a.Path, a.Query, a.ForceQuery = path, escapeQuery(query), found && query == ""
}

// JoinQuery joins two encoded queries, either of which may be empty.
func JoinQuery(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "&" + b
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
