package intake

import (
	"bytes"
	"net/url"
	"strings"
)

// SplitPath cuts the query off a path, and encodes what may not stand in it.
func SplitPath(s string) (path, query string) {
	path, query, _ = strings.Cut(s, "?")
	return path, escapeQuery(query)
}

// JoinQuery joins two encoded queries, either of which may be empty.
func JoinQuery(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "&" + b
}

// EscapeQueryPart escapes a part of a query. A space becomes %20, which unlike
// the plus sign means the same to everybody.
func EscapeQueryPart(s string) string {
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
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}
