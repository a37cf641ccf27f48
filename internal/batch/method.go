package batch

import (
	"slices"
	"strings"
)

// methodsOf returns the method of an action, and those that a parameter of its query puts
// in its place, as many frameworks read it.
func methodsOf(a *Action) []string {
	methods := []string{a.Method}
	if a.Query == "" {
		return methods
	}
	for pair := range strings.FieldsFuncSeq(a.Query, func(r rune) bool { return r == '&' || r == ';' }) {
		name, value, _ := strings.Cut(unescape(pair), "=")
		value = strings.ToUpper(strings.Trim(value, " +"))
		if isMethodParameter(name) && knownMethod(value) && !slices.Contains(methods, value) {
			methods = append(methods, value)
		}
	}
	return methods
}

// isMethodParameter reports whether a parameter of a query replaces the method of its
// request. A parameter that is only called method usually does not.
func isMethodParameter(name string) bool {
	name = strings.Trim(name, " +")
	var room [64]byte
	switch string(foldHeader(room[:0], name)) {
	case "method":
		return strings.HasPrefix(name, "_")
	case "httpmethod":
		return strings.HasPrefix(name, "$")
	case "x-http-method-override", "x-http-method", "x-method-override", "http-method-override", "method-override", "http-method":
		return true
	}
	return false
}
