package api

import (
	"mime"
	"strconv"
	"strings"

	"github.com/gin-gonic/gin"
)

// negotiate returns the offered media type that the Accept headers prefer (RFC 9110
// §12.5.1), the first one among equals. The names of offers must be in lower case and
// without parameters.
func negotiate(c *gin.Context, offers ...string) (string, error) {
	ranges := c.Request.Header.Values("Accept")
	if strings.TrimSpace(strings.Join(ranges, "")) == "" {
		return offers[0], nil // an empty header means the same as no header
	}
	best, bestQuality := "", 0.0
	for _, offer := range offers {
		if q := quality(ranges, offer); q > bestQuality {
			best, bestQuality = offer, q
		}
	}
	if best == "" {
		return "", refuse(kindNotAcceptable, "the Accept header allows none of: %s", strings.Join(offers, ", "))
	}
	return best, nil
}

// quality returns the weight of the most specific range that covers the offer.
func quality(lines []string, offer string) float64 {
	family, _, _ := strings.Cut(offer, "/")
	q, specific := 0.0, 0
	for _, line := range lines {
		for _, item := range splitQuoted(line, ',') {
			media, params, err := mime.ParseMediaType(item)
			if err != nil {
				continue
			}
			rank := 0
			switch media {
			case offer:
				rank = 3
			case family + "/*":
				rank = 2
			case "*/*":
				rank = 1
			}
			if rank == 0 || rank < specific {
				continue
			}
			weight := 1.0
			if raw, ok := params["q"]; ok {
				if weight, err = strconv.ParseFloat(raw, 64); err != nil || !(weight >= 0 && weight <= 1) {
					continue
				}
			}
			if rank > specific || weight > q {
				q, specific = weight, rank
			}
		}
	}
	return q
}
