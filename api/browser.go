package api

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/gin-gonic/gin"

	"github.com/batchd/batchd/internal/intake"
)

// guard refuses requests that a web page makes through a browser that can reach the server. Without
// authentication, the browser needs no credential for them.
//
//   - A page can give its own name the server's address, and then reads all answers (DNS rebinding). The Host of
//     such a request is the page's name.
//   - A page can send a form, or text that is JSON, to the server's own address. The browser marks such a request
//     with the page's Origin, and newer browsers with Sec-Fetch-Site.
func (s *Server) guard(c *gin.Context) error { return s.guardRequest(c.Request) }

// guardRequest is guard for a request. A cookie authenticates a request as little as none does.
func (s *Server) guardRequest(r *http.Request) error {
	at := parseHost(r.Host)
	configured := s.isConfigured(at)
	if !configured && !isListener(r, at) {
		return refuse(kindHost, "the Host %q is not a name of this server: if it is, add it to auth.hosts", intake.Clip(r.Host))
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return nil
	}
	for _, site := range r.Header.Values("Sec-Fetch-Site") {
		if site != "same-origin" && site != "none" {
			return refuse(kindCrossSite, "a browser sent the request for a page of another site (Sec-Fetch-Site: %s): without a credential in a header, such pages may only read", intake.Clip(site))
		}
	}
	for _, origin := range r.Header.Values("Origin") {
		if !isSameOrigin(origin, at, configured, s.comesByTLS(r, at)) {
			return refuse(kindCrossSite, "a browser sent the request for a page of another site (Origin: %s): without a credential in a header, such pages may only read; to let a page of your own change something, serve it from this server's host", intake.Clip(origin))
		}
	}
	return nil
}

// comesByTLS reports whether the browser speaks TLS: to the server, or to a proxy at auth.sessions.url.
func (s *Server) comesByTLS(r *http.Request, at hostPort) bool {
	host, ok := strings.CutPrefix(s.cfg.Auth.Sessions.URL, "https://")
	return r.TLS != nil || ok && parseHost(strings.TrimSuffix(host, "/")).host == at.host
}

// hostPort is a host in lower case, or an address in its canonical form, and a port, or "".
type hostPort struct{ host, port string }

func parseHost(text string) hostPort {
	h := hostPort{host: text}
	if i := strings.LastIndexByte(text, ':'); i >= 0 && !strings.HasSuffix(text, "]") {
		h = hostPort{text[:i], text[i+1:]}
	}
	h.host = strings.TrimSuffix(strings.ToLower(h.host), ".")
	bare := h.host
	if inside, ok := strings.CutPrefix(bare, "["); ok {
		bare = strings.TrimSuffix(inside, "]")
	}
	if ip, err := netip.ParseAddr(bare); err == nil {
		h.host = ip.Unmap().WithZone("").String()
	}
	return h
}

// isConfigured reports whether a host is in auth.hosts. There, a host without a port has any.
func (s *Server) isConfigured(at hostPort) bool {
	hosts := s.cfg.Auth.Hosts
	if _, host, ok := strings.Cut(s.cfg.Auth.Sessions.URL, "://"); ok {
		hosts = append(slices.Clone(hosts), strings.TrimSuffix(host, "/"))
	}
	for _, text := range hosts {
		if h := parseHost(text); h.host == at.host && (h.port == "" || h.port == at.port) {
			return true
		}
	}
	return false
}

// isListener reports whether a host is localhost or the address at which the connection arrived, with its port.
func isListener(r *http.Request, at hostPort) bool {
	local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	if !ok {
		return false
	}
	if at.port == "" {
		at.port = defaultPort(r.TLS != nil)
	}
	if at.port != strconv.Itoa(local.Port) {
		return false
	}
	switch at.host {
	case "localhost", "127.0.0.1", "::1", local.AddrPort().Addr().Unmap().WithZone("").String():
		return true
	}
	return false
}

// isSameOrigin reports whether an Origin is the server's own. A proxy in front of a configured name may use TLS
// where the server does not.
func isSameOrigin(origin string, at hostPort, configured, tls bool) bool {
	scheme, rest, ok := strings.Cut(origin, "://")
	if !ok || scheme != "http" && scheme != "https" || tls && scheme == "http" || !tls && !configured && scheme == "https" {
		return false
	}
	from := parseHost(rest)
	for _, h := range []*hostPort{&from, &at} {
		if h.port == "" {
			h.port = defaultPort(scheme == "https")
		}
	}
	return from == at
}

func defaultPort(tls bool) string {
	if tls {
		return "443"
	}
	return "80"
}
