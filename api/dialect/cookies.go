package dialect

import "strings"

// foreignCookies returns the value of a Cookie header without the cookies of batchd's own sessions, which must not
// reach a target. Their names begin with batchd, after the prefix that makes a browser protect them. The other
// cookies stay as they are.
func foreignCookies(value string) string {
	var kept []string
	for pair := range strings.SplitSeq(value, ";") {
		name, _, _ := strings.Cut(strings.TrimSpace(pair), "=")
		if !isOwnCookie(name) {
			kept = append(kept, pair)
		}
	}
	return strings.TrimSpace(strings.Join(kept, ";"))
}

func isOwnCookie(name string) bool {
	name = strings.ToLower(strings.Trim(name, " \t\""))
	for _, prefix := range []string{"__host-http-", "__host-", "__secure-", "__http-"} {
		name = strings.TrimPrefix(name, prefix)
	}
	return strings.HasPrefix(name, "batchd")
}
