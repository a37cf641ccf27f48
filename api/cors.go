package api

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/gin-gonic/gin"

	"github.com/batchd/batchd/internal/setting"
)

// CORS lets pages of other origins use the API with the browsers of their visitors. Without origins the server
// sends none of its headers.
type CORS struct {
	// Origins are the origins of these pages, exactly as browsers send them: https://console.example.com. There is
	// no wildcard. Without authentication (auth.modes: none) their pages may only read. Defaults to none.
	Origins []string `yaml:"origins"`
	// Credentials lets these pages send cookies and the certificates of clients, which browsers add by
	// themselves. An Authorization header that a page sets itself needs it not. Defaults to false.
	Credentials bool `yaml:"credentials"`
}

// Check reports the faults of the settings.
func (o CORS) Check(c *setting.Checker) {
	for i, origin := range o.Origins {
		c.Check(fmt.Sprintf("origins[%d]", i), checkOrigin(origin))
	}
	if o.Credentials && len(o.Origins) == 0 && !c.IsBroken("origins") {
		c.Faultf("credentials", "there are no origins that could send credentials: set origins")
	}
}

// checkOrigin accepts an origin in the one form in which browsers send it.
func checkOrigin(origin string) error {
	u, err := url.Parse(origin)
	switch {
	case strings.Contains(origin, "*"):
		return fmt.Errorf("%q would let pages of unknown sites use the API: list each origin", setting.Clip(origin))
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || origin != u.Scheme+"://"+u.Host || origin != strings.ToLower(origin):
		return fmt.Errorf("cannot read %q as an origin: expected scheme and host in lower case, and the port if it is not the scheme's, such as https://console.example.com", setting.Clip(origin))
	case u.Port() == defaultPort(u.Scheme == "https") || strings.HasSuffix(u.Host, ":"):
		return fmt.Errorf("browsers leave out the default port of %q: leave it out, too", setting.Clip(origin))
	}
	return nil
}

// The headers of CORS. A page can send what a client of the API may send, and read what the API answers with.
var (
	corsMethods = strings.Join([]string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodDelete}, ", ")
	corsRequest = strings.Join([]string{
		"Accept", "Authorization", "Content-Encoding", "Content-Type", "Idempotency-Key", "If-None-Match", "Last-Event-ID", "Prefer", "X-API-Key", "X-Batchd-Key",
		headerRequestID, "X-User-Key",
	}, ", ")
	corsAnswer = strings.Join([]string{
		headerStore, "ETag", "Idempotency-Replayed", "Link", "Location", "Preference-Applied", "RateLimit", "RateLimit-Policy", "Retry-After", headerRequestID,
	}, ", ")
)

// corsMaxAge is how many seconds a browser keeps the answer to a preflight.
const corsMaxAge = "600"

// cors adds the headers of CORS to the answer to a configured origin, and answers preflights, which have no
// credential. It runs after guard, which has the same say about these origins as about all others.
func (s *Server) cors(c *gin.Context) {
	h, r := c.Writer.Header(), c.Request
	h.Add("Vary", "Origin")
	origins := r.Header.Values("Origin")
	if len(origins) != 1 || !slices.Contains(s.cfg.Server.CORS.Origins, origins[0]) {
		return
	}
	h.Set("Access-Control-Allow-Origin", origins[0])
	if s.cfg.Server.CORS.Credentials {
		h.Set("Access-Control-Allow-Credentials", "true")
	}
	if r.Method != http.MethodOptions || r.Header.Get("Access-Control-Request-Method") == "" {
		h.Set("Access-Control-Expose-Headers", corsAnswer)
		return
	}
	h.Set("Access-Control-Allow-Methods", corsMethods)
	h.Set("Access-Control-Allow-Headers", corsRequest)
	h.Set("Access-Control-Max-Age", corsMaxAge)
	h.Add("Vary", "Access-Control-Request-Method, Access-Control-Request-Headers")
	c.AbortWithStatus(http.StatusNoContent)
}
