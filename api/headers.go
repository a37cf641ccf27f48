package api

import "net/http"

// SetSecurityHeaders sets the headers that tell a browser to do nothing with an answer: it must not take it for
// another type, run or frame it, embed it in a page of another site, or name its URL to one. With secure, the
// request came over TLS, and the browser must not use plain HTTP for this host in the next year.
func SetSecurityHeaders(h http.Header, secure bool) {
	for i := range securityHeaders {
		h.Set(securityHeaders[i][0], securityHeaders[i][1])
	}
	if secure {
		h.Set("Strict-Transport-Security", "max-age=31536000")
	}
}

var securityHeaders = [][2]string{
	{"X-Content-Type-Options", "nosniff"},
	{"Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"},
	{"Referrer-Policy", "no-referrer"},
	// It concerns requests that a page makes without CORS.
	{"Cross-Origin-Resource-Policy", "same-origin"},
}
