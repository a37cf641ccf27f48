package batch

import (
	"net/url"
	"strings"
)

// Rule matches requests by method and path.
type Rule struct {
	// Method is an HTTP method in upper case, or "*" for any. Defaults to "*".
	Method string `yaml:"method"`
	// Path is a pattern: "*" stands for one segment, a final "**" for the rest,
	// the empty one included.
	Path string `yaml:"path"`
}

func (r *Rule) validate(pointer string, add func(pointer, format string, args ...any)) {
	if r.Method != "" && r.Method != "*" && !knownMethod(r.Method) {
		add(pointer+"/method", "unknown method %q: expected one of %s, or * for any", clip(r.Method), strings.Join(Methods, ", "))
	}
	if !strings.HasPrefix(r.Path, "/") {
		add(pointer+"/path", "the pattern %q does not start with /", clip(r.Path))
	} else if i := strings.Index(r.Path, "**"); i >= 0 && i != len(r.Path)-2 {
		add(pointer+"/path", "the pattern %q goes on after **, which stands for the rest", clip(r.Path))
	}
}

// Denies reports whether the rule forbids a request. It takes every spelling of
// a path for the same: case, escapes (decoded twice), a trailing slash, and
// matrix parameters make no difference, because the target may not see one.
func (r *Rule) Denies(method, path string) bool {
	return r.matches(method, PlainPath(path), strings.ToLower(strings.TrimSuffix(r.Path, "/")))
}

// Allows reports whether the rule permits a request. It takes a path as it is
// spelled, but for its escapes.
func (r *Rule) Allows(method, path string) bool {
	decoded, err := url.PathUnescape(path)
	return err == nil && r.matches(method, decoded, r.Path)
}

// Permits reports whether the target's rules let an action through: no deny rule
// matches, and an allow rule does where there are any. The rules match the path
// below the base URL.
func (t Target) Permits(a *Action) bool {
	for i := range t.Deny {
		if t.Deny[i].Denies(a.Method, a.Path) {
			return false
		}
	}
	for i := range t.Allow {
		if t.Allow[i].Allows(a.Method, a.Path) {
			return true
		}
	}
	return len(t.Allow) == 0
}

func (r *Rule) matches(method, path, pattern string) bool {
	if r.Method != "" && r.Method != "*" && r.Method != method {
		return false
	}
	want, have := strings.Split(pattern, "/"), strings.Split(path, "/")
	for i, segment := range want {
		switch {
		case segment == "**":
			return true
		case i >= len(have):
			return false
		case segment == "*":
			if have[i] == "" {
				return false
			}
		case segment != have[i]:
			return false
		}
	}
	return len(have) == len(want)
}

// PlainPath reduces a path to what any server could read of it: decoded twice, in
// lower case, without empty segments, matrix parameters, blanks around segments,
// or what would be a query after decoding.
func PlainPath(path string) string {
	for range 2 {
		decoded, err := url.PathUnescape(path)
		if err != nil {
			break
		}
		path = decoded
	}
	path, _, _ = strings.Cut(path, "?")
	segments := strings.Split(path, "/")
	kept := segments[:0]
	for i, segment := range segments {
		segment, _, _ = strings.Cut(segment, ";")
		segment = strings.TrimSpace(segment)
		if i == 0 || segment != "" {
			kept = append(kept, strings.ToLower(segment))
		}
	}
	return strings.Join(kept, "/")
}
