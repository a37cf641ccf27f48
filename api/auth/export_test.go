package auth

import "net/http"

// SetTransport replaces how the issuer is reached.
func (j *JWT) SetTransport(t http.RoundTripper) {
	j.issuer.client.Transport = bounded{t, isHTTPS(j.cfg.Issuer)}
}
