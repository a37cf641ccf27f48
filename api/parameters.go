package api

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/gin-gonic/gin"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/intake"
)

// parameters returns the query of a request. It refuses unknown parameters and repeated
// ones, so that a client notices a misspelt parameter.
func parameters(c *gin.Context, allowed ...string) (url.Values, error) {
	values, err := parseQuery(c.Request.URL.RawQuery)
	if err != nil {
		return nil, err
	}
	for name, list := range values {
		switch {
		case !slices.Contains(allowed, name) && len(allowed) == 0:
			return nil, refuse(kindBadParameter, "unknown query parameter %q: there are none here", intake.Clip(name))
		case !slices.Contains(allowed, name):
			return nil, refuse(kindBadParameter, "unknown query parameter %q: expected one of %s", intake.Clip(name), strings.Join(allowed, ", "))
		case len(list) > 1:
			return nil, refuse(kindBadParameter, "the query parameter %q appears more than once", name)
		}
	}
	return values, nil
}

// maxParameters is the most parameters of a query. Each uses about 100 bytes, also if it is a single character.
const maxParameters = 100

// splitQuery returns the parameters of a query.
func splitQuery(raw string) (url.Values, error) {
	if strings.Count(raw, "&") >= maxParameters {
		return nil, refuse(kindBadParameter, "the query has more than %d parameters", maxParameters)
	}
	values, err := url.ParseQuery(raw)
	if err != nil {
		return nil, refuse(kindBadParameter, "the query cannot be parsed: it must be percent-encoded")
	}
	return values, nil
}

// parseQuery returns the parameters of a query, all of them in UTF-8.
func parseQuery(raw string) (url.Values, error) {
	values, err := splitQuery(raw)
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if err := checkParameterText(name, values[name]); err != nil {
			return nil, refuse(kindBadParameter, "the query parameter %q: %v", intake.Clip(name), err)
		}
	}
	return values, nil
}

// checkParameterText refuses a parameter whose name or values are not UTF-8.
func checkParameterText(name string, values []string) error {
	for _, text := range append([]string{name}, values...) {
		if i := intake.InvalidUTF8([]byte(text)); i >= 0 {
			return fmt.Errorf("it holds the byte 0x%02x, which is not UTF-8: percent-encode the UTF-8 of the text", text[i])
		}
	}
	return nil
}

// integer returns a parameter as a number, or def where it is missing.
func integer(values url.Values, name string, def, least, most int) (int, error) {
	if !values.Has(name) {
		return def, nil
	}
	n, err := strconv.Atoi(values.Get(name))
	if err != nil || n < least || n > most {
		return 0, refuse(kindBadParameter, "the query parameter %q is %q: expected a whole number from %d to %d", name, intake.Clip(values.Get(name)), least, most)
	}
	return n, nil
}

// batchID returns the id in the path. It returns a "not found" error for a text that
// cannot be an id.
func batchID(c *gin.Context) (string, error) {
	if id := c.Param("id"); isPlainName(id, 64) {
		return id, nil
	}
	return "", batch.ErrNotFound
}

// idempotencyKey returns the key of a submission, or "" if there is none. The key may be
// quoted, as in draft-ietf-httpapi-idempotency-key-header, or bare, as many clients send
// it.
func idempotencyKey(h http.Header) (string, error) {
	const expected = "expected 1 to 255 visible ASCII characters, bare or in double quotes"
	values := h.Values("Idempotency-Key")
	if len(values) == 0 {
		return "", nil
	}
	if len(values) > 1 {
		return "", refuse(kindBadParameter, "the Idempotency-Key header appears more than once")
	}
	key := values[0]
	if strings.HasPrefix(key, `"`) {
		inner, ok := strings.CutSuffix(key[1:], `"`)
		unescaped := strings.NewReplacer(`\\`, `\`, `\"`, `"`).Replace(inner)
		if !ok || strings.Count(inner, `"`) != strings.Count(inner, `\"`) {
			return "", refuse(kindBadParameter, "the Idempotency-Key header has an open quote: %s", expected)
		}
		key = unescaped
	}
	if key == "" || len(key) > 255 {
		return "", refuse(kindBadParameter, "the Idempotency-Key has %d characters: %s", len(key), expected)
	}
	for i := range len(key) {
		if key[i] <= ' ' || key[i] > '~' {
			return "", refuse(kindBadParameter, "the Idempotency-Key holds the byte 0x%02x: %s", key[i], expected)
		}
	}
	return key, nil
}
