package batch

import (
	"slices"
	"strings"
)

// Rule matches requests by method and path.
type Rule struct {
	// Method is an HTTP method in upper case, or "*" for any. A deny rule also matches a
	// method that the query puts in its place, such as _method=DELETE, but not one in a
	// body. Defaults to "*".
	Method string `yaml:"method"`
	// Path is a pattern: "*" matches one segment, and a final "**" matches the rest,
	// including an empty rest. An allow rule compares it with the path as written. A
	// deny rule compares it with all [Readings] of the path.
	Path string `yaml:"path"`
}

func (r *Rule) validate(pointer string, add func(pointer, format string, args ...any)) {
	if r.Method != "" && r.Method != "*" && !knownMethod(r.Method) {
		add(pointer+"/method", "unknown method %q: expected one of %s, or * for any", clip(r.Method), strings.Join(Methods, ", "))
	}
	if !strings.HasPrefix(r.Path, "/") {
		add(pointer+"/path", "the pattern %q does not start with /", clip(r.Path))
	} else if i := strings.Index(r.Path, "**"); i >= 0 && i != len(r.Path)-2 {
		add(pointer+"/path", "the pattern %q continues after **, which matches the rest of a path", clip(r.Path))
	}
}

// Denies reports whether the rule forbids a request, given all [Readings] of its path.
// It treats every spelling of a path as the same path, because the target may do so,
// too. If there are too many readings, it forbids the request.
func (r *Rule) Denies(method string, readings [][]string) bool {
	if !r.hasMethod(method) {
		return false
	}
	if readings == nil {
		return true
	}
	written, decoded := r.pattern(fold), r.pattern(func(s string) string { return fold(unescape(s)) })
	for _, path := range readings {
		if matches(written, path[1:]) || matches(decoded, path[1:]) {
			return true
		}
	}
	return false
}

// Allows reports whether the rule permits a request. It uses the path as written.
func (r *Rule) Allows(method, path string) bool {
	if !r.hasMethod(method) {
		return false
	}
	var want []pattern
	for segment := range strings.SplitSeq(strings.TrimPrefix(EscapePath(r.Path), "/"), "/") {
		want = append(want, pattern{text: segment, any: segment == "*", rest: segment == "**"})
	}
	return matches(want, strings.Split(strings.TrimPrefix(EscapePath(path), "/"), "/"))
}

// Forbids returns the reason why a target's rules forbid an action, or "". The rules
// permit an action if no deny rule matches, an allow rule matches or there are no allow
// rules, the path has no encoded slash that the target's setting refuses, the policy
// allows all headers, and the method may have the action's body. The rules match the path below the base URL.
func Forbids(t *Target, a *Action) string {
	if why := t.ForbidsHeaders(a); why != "" {
		return why
	}
	if why := t.ForbidsBody(a); why != "" {
		return why
	}
	if t.EncodedSlash == EncodedSlashRefuse && EncodesSlash(a.Path) {
		return "its setting encoded_slash refuses a path with an encoded slash or backslash (%2F, %5C)"
	}
	forbidden := "its rules do not allow " + a.Method + " on this path"
	if len(t.Deny) > 0 {
		readings, methods := Readings(a.Path), methodsOf(a)
		for i := range t.Deny {
			if slices.ContainsFunc(methods, func(method string) bool { return t.Deny[i].Denies(method, readings) }) {
				return forbidden
			}
		}
	}
	for i := range t.Allow {
		if t.Allow[i].Allows(a.Method, a.Path) {
			return ""
		}
	}
	if len(t.Allow) == 0 {
		return ""
	}
	return forbidden
}

// Bodiless reports whether a body of a request with that method has no meaning in general
// (RFC 9110 §9.3). A server that ignores such a body takes it for the next request on the
// connection.
func Bodiless(method string) bool {
	switch method {
	case "GET", "HEAD", "DELETE", "OPTIONS":
		return true
	}
	return false
}

// ForbidsBody returns the reason why the target refuses the body of an action, or "". An
// empty body is none.
func (t *Target) ForbidsBody(a *Action) string {
	if len(a.Body) == 0 || !Bodiless(a.Method) || t != nil && slices.Contains(t.AllowBody, a.Method) {
		return ""
	}
	return "its setting allow_body does not list " + a.Method + ", which has no body in general: " +
		"a server that ignores the body takes it for another request"
}

func (r *Rule) hasMethod(method string) bool {
	return r.Method == "" || r.Method == "*" || r.Method == method
}

// pattern is a segment of a rule's path.
type pattern struct {
	text      string
	any, rest bool // "*" and "**"
}

// pattern returns the segments of the rule's path that are not empty. It applies f to
// those that are not wildcards.
func (r *Rule) pattern(f func(string) string) []pattern {
	var out []pattern
	for segment := range strings.SplitSeq(r.Path, "/") {
		if segment == "*" || segment == "**" {
			out = append(out, pattern{any: segment == "*", rest: segment == "**"})
			continue
		}
		for part := range strings.SplitSeq(f(segment), "/") {
			if part != "" {
				out = append(out, pattern{text: part})
			}
		}
	}
	return out
}

// matches compares a path with a pattern, both in segments.
func matches(want []pattern, have []string) bool {
	for i, segment := range want {
		switch {
		case segment.rest:
			return true
		case i >= len(have):
			return false
		case segment.any:
			if have[i] == "" {
				return false
			}
		case segment.text != have[i]:
			return false
		}
	}
	return len(have) == len(want)
}
