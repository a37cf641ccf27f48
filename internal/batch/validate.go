package batch

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Bounds of the fields of one action. They are not settings, because no serious request
// comes near them. MaxIDLength is in characters, MaxPathLength and MaxHeaderLength are
// in bytes.
const (
	MaxIDLength     = 256
	MaxPathLength   = 8 << 10
	MaxHeaderCount  = 100
	MaxHeaderLength = 16 << 10
	MaxTimeout      = time.Hour
)

// Methods lists the methods that an action may use. It excludes TRACE, which echoes
// credentials, and CONNECT, which makes a tunnel.
var Methods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}

// Validate returns every fault of the action, with pointers relative to it
// ("/method"). It does not change the action.
func (a *Action) Validate() []Fault {
	var faults []Fault
	add := func(pointer, format string, args ...any) {
		faults = append(faults, Fault{Pointer: pointer, Detail: fmt.Sprintf(format, args...)})
	}
	if n := utf8.RuneCountInString(a.ID); n > MaxIDLength {
		add("/id", "the id has %d characters: at most %d are allowed", n, MaxIDLength)
	}
	if strings.ContainsFunc(a.ID, unicode.IsControl) || !utf8.ValidString(a.ID) {
		add("/id", "the id holds a control character")
	}
	if a.Method == "" {
		add("/method", "the method is missing: expected one of %s", strings.Join(Methods, ", "))
	} else if !knownMethod(a.Method) {
		add("/method", "unknown method %q: expected one of %s", clip(a.Method), strings.Join(Methods, ", "))
	}
	if err := ValidatePath(a.Path); err != nil {
		add("/path", "%v", err)
	}
	if err := validateQuery(a.Query); err != nil {
		add("/query", "%v", err)
	}
	if len(a.Headers) > MaxHeaderCount {
		add("/headers", "there are %d headers: at most %d are allowed", len(a.Headers), MaxHeaderCount)
	} else {
		for _, h := range a.Headers {
			err := validateHeader(h)
			if err == nil {
				err = validateAuthorization(h)
			}
			if err != nil {
				add(headerPointer(h.Name), "%v", err)
			}
		}
	}
	if a.Timeout < 0 || a.Timeout > MaxTimeout {
		add("/timeout", "the timeout is %s: expected more than 0 and at most %s", a.Timeout, MaxTimeout)
	}
	switch a.Retry {
	case RetryAuto, RetrySafe, RetryNever:
	default:
		add("/retry", "unknown retry mode %q: expected %q or %q", clip(string(a.Retry)), RetrySafe, RetryNever)
	}
	if n := utf8.RuneCountInString(a.Group); n > MaxIDLength {
		add("/group", "the group's name has %d characters: at most %d are allowed", n, MaxIDLength)
	}
	if a.Undo != nil {
		if a.Group == "" {
			add("/undo", "an undo belongs to a member of a group")
		}
		if a.Undo.Undo != nil || a.Undo.Group != "" {
			add("/undo", "an undo has neither a group nor an undo of its own")
		}
		for _, f := range a.Undo.Validate() {
			add("/undo"+f.Pointer, "%s", f.Detail)
		}
	}
	return faults
}

// headerPointer returns the pointer of a header, or that of all headers if its name is
// so long that the pointers of faults would take much memory.
func headerPointer(name string) string {
	const most = 1 << 10
	if len(name) > most {
		return "/headers"
	}
	return "/headers/" + EscapePointer(name)
}

func knownMethod(m string) bool {
	return slices.Contains(Methods, m)
}

func validateQuery(query string) error {
	if len(query) > MaxPathLength {
		return fmt.Errorf("the query has %d bytes: at most %d are allowed", len(query), MaxPathLength)
	}
	for i := range len(query) {
		if c := query[i]; c <= 0x20 || c >= 0x7f || c == '#' {
			return fmt.Errorf("the query holds the byte 0x%02x: it must be percent-encoded", c)
		}
	}
	return nil
}

// validateHeader checks a name against RFC 9110 §5.1 and a value against §5.5.
func validateHeader(h Field) error {
	if h.Name == "" {
		return fmt.Errorf("a header has no name")
	}
	for i := range len(h.Name) {
		if !isTokenByte(h.Name[i]) {
			return fmt.Errorf("the header name %q holds the byte 0x%02x, which no header name may hold", clip(h.Name), h.Name[i])
		}
	}
	if len(h.Name)+len(h.Value) > MaxHeaderLength {
		return fmt.Errorf("the header has %d bytes: at most %d are allowed", len(h.Name)+len(h.Value), MaxHeaderLength)
	}
	if !utf8.ValidString(h.Value) {
		return fmt.Errorf("the value of header %q is not UTF-8", clip(h.Name))
	}
	for i := range len(h.Value) {
		if c := h.Value[i]; c < 0x20 && c != '\t' || c == 0x7f {
			return fmt.Errorf("the value of header %q holds the control character 0x%02x", clip(h.Name), c)
		}
	}
	return nil
}

// validateAuthorization refuses schemes that authenticate a connection and not a request
// (RFC 4559 §6): a later request on that connection would have the rights of this one.
func validateAuthorization(h Field) error {
	if !equalFold(h.Name, "Authorization") {
		return nil
	}
	scheme := strings.TrimLeft(h.Value, " \t")
	for i := range len(scheme) {
		if !isTokenByte(scheme[i]) {
			scheme = scheme[:i]
			break
		}
	}
	if ConnectionBased(scheme) {
		return fmt.Errorf("the scheme %s authenticates a connection and not a request, so it is refused: use another scheme, such as Basic or Bearer", scheme)
	}
	return nil
}

// ConnectionBased reports whether an authentication scheme authenticates a connection and
// not a request.
func ConnectionBased(scheme string) bool {
	return equalFold(scheme, "NTLM") || equalFold(scheme, "Negotiate")
}

func isTokenByte(c byte) bool {
	switch {
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		return true
	}
	return strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}

// EscapePointer escapes one reference token of a JSON pointer (RFC 6901 §3).
func EscapePointer(token string) string {
	return strings.NewReplacer("~", "~0", "/", "~1").Replace(token)
}

// IsCredential reports whether a header with that name usually carries a secret.
func IsCredential(name string) bool {
	var room [64]byte
	lower := append(room[:0], name...)
	for i, c := range lower {
		if c >= 'A' && c <= 'Z' {
			lower[i] = c + 'a' - 'A'
		}
	}
	return slices.ContainsFunc(credentialWords, func(word []byte) bool { return bytes.Contains(lower, word) })
}

var credentialWords = [][]byte{
	[]byte("authorization"), []byte("cookie"), []byte("token"), []byte("secret"), []byte("password"), []byte("credential"),
	[]byte("api-key"), []byte("apikey"), []byte("access-key"), []byte("user-key"),
}

// clip keeps foreign text in an error message short.
func clip(s string) string {
	const most = 64
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// equalFold compares ASCII header names without regard to case.
func equalFold(a, b string) bool { return len(a) == len(b) && strings.EqualFold(a, b) }
