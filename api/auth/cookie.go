package auth

import (
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/batchd/batchd/api/dialect"
)

const (
	// cookieName is the cookie of a session. With __Host- in front, the browser takes it from this host alone,
	// over TLS, so that no neighbour can plant one.
	cookieName = "batchd"
	// loginName is the cookie of a sign-in at the OpenID provider that is under way.
	loginName  = "batchd-login"
	hostPrefix = "__Host-"
	// loginTime bounds a sign-in at the provider.
	loginTime = 10 * time.Minute
)

// isSecure reports whether the browser reaches the server by TLS.
func (s *Sessions) isSecure(r *http.Request) bool {
	return r.TLS != nil || strings.HasPrefix(s.cfg.URL, "https://")
}

// Usable reports whether a request may have a session: it comes by TLS, or on a loopback address.
func (s *Sessions) Usable(r *http.Request) bool {
	if s.isSecure(r) {
		return true
	}
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	return ok && local.IP.IsLoopback() && isLoopback(strings.Trim(host, "[]"))
}

// name returns the name of a cookie. A request over TLS has no other: a neighbour could plant it.
func (s *Sessions) name(r *http.Request, name string) string {
	if s.isSecure(r) {
		return hostPrefix + name
	}
	return name
}

// takeCookie takes the cookies of sessions out of a request, and returns the value of the one that counts, or "".
func (s *Sessions) takeCookie(r *http.Request) (string, error) {
	var values []string
	if s.Usable(r) {
		for _, cookie := range r.CookiesNamed(s.name(r, cookieName)) {
			values = append(values, cookie.Value)
		}
	}
	dropCookies(r.Header)
	switch len(values) {
	case 0:
		return "", nil
	case 1:
		return values[0], nil
	}
	return "", &dialect.UnauthorizedError{Detail: "the request has several cookies of a session: sign in again"}
}

// dropCookies removes batchd's own cookies from a header, so that they do not go to a target.
func dropCookies(h http.Header) {
	var kept []string
	for _, line := range h.Values("Cookie") {
		pairs := slices.DeleteFunc(strings.Split(line, ";"), func(pair string) bool {
			name, _, _ := strings.Cut(strings.TrimSpace(pair), "=")
			return slices.Contains([]string{cookieName, loginName}, strings.TrimPrefix(strings.TrimSpace(name), hostPrefix))
		})
		if rest := strings.TrimSpace(strings.Join(pairs, ";")); rest != "" {
			kept = append(kept, rest)
		}
	}
	h.Del("Cookie")
	for _, line := range kept {
		h.Add("Cookie", line)
	}
}

// Cookie returns the cookie of a session. An empty value removes it.
func (s *Sessions) Cookie(r *http.Request, value string) *http.Cookie {
	return s.cookie(r, cookieName, value, s.cfg.Lifetime, http.SameSiteStrictMode)
}

func (s *Sessions) cookie(r *http.Request, name, value string, lifetime time.Duration, same http.SameSite) *http.Cookie {
	c := &http.Cookie{Name: s.name(r, name), Value: value, Path: "/", HttpOnly: true, Secure: s.isSecure(r), SameSite: same, MaxAge: int(lifetime.Seconds())} //nolint:gosec // both attributes are set; Secure is not over plain HTTP on a loopback address
	if value == "" {
		c.MaxAge = -1
	}
	return c
}

// base returns the URL by which the browser reaches the server. The caller has checked the Host.
func (s *Sessions) base(r *http.Request) string {
	switch {
	case s.cfg.URL != "":
		return strings.TrimSuffix(s.cfg.URL, "/")
	case r.TLS != nil:
		return "https://" + r.Host
	}
	return "http://" + r.Host
}

// mostReturnTo bounds the path to return to.
const mostReturnTo = 1000

// IsLocalPath reports whether a text is a path of this server, in every browser's reading: a redirect to it leads
// nowhere else.
func IsLocalPath(text string) bool {
	if len(text) > mostReturnTo || !strings.HasPrefix(text, "/") || strings.Contains(text, "//") {
		return false
	}
	for i := range len(text) {
		if c := text[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(`\"<>^`+"`{|}", c) >= 0 {
			return false
		}
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "" || u.Host != "" || u.User != nil || u.Opaque != "" {
		return false
	}
	// Neither dots nor escaped slashes, which a proxy may resolve.
	return !slices.ContainsFunc(strings.Split(u.Path, "/"), func(part string) bool { return part == "." || part == ".." }) &&
		!strings.ContainsAny(u.Path, "\\\r\n\t") && !strings.Contains(u.Path, "//")
}
