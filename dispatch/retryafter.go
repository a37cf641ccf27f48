package dispatch

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// maxRetryAfter bounds the wait that an answer can ask for. The target's retry policy
// bounds it further.
const maxRetryAfter = 24 * time.Hour

// retryAfter returns how long an answer asks to wait (RFC 9110 §10.2.3), the longest
// time if it names several, or 0 if it names none that can be understood. Beside the whole
// seconds of the RFC it reads decimals, which some APIs send. Dates are compared with now if
// the answer has no usable clock of its own.
func retryAfter(h http.Header, now time.Time) time.Duration {
	longest := time.Duration(0)
	for _, line := range h["Retry-After"] {
		items := strings.Split(line, ",")
		for i := 0; i < len(items); i++ {
			if after, ok := oneRetryAfter(items[i], h, now); ok {
				longest = max(longest, after)
				continue
			}
			if i+1 < len(items) { // two of the three forms of a date hold a comma
				if after, ok := oneRetryAfter(items[i]+","+items[i+1], h, now); ok {
					longest = max(longest, after)
					i++
				}
			}
		}
	}
	return longest
}

func oneRetryAfter(value string, h http.Header, now time.Time) (time.Duration, bool) {
	if value = strings.TrimSpace(value); value == "" {
		return 0, false
	}
	if strings.Trim(value, "0123456789.") == "" {
		// A value too great comes as +Inf, one that is no number as 0.
		n, _ := strconv.ParseFloat(value, 64)
		return seconds(n), true
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0, false
	}
	return min(max(at.Sub(serverTime(h, now)), 0), maxRetryAfter), true
}

// serverTime returns the time by the target's clock, which the times in its answer refer to,
// from the header Date. Without a usable Date it returns now, the ledger's time: a Date that
// is a day off comes from a broken clock or an old cache.
func serverTime(h http.Header, now time.Time) time.Time {
	if date, err := http.ParseTime(h.Get("Date")); err == nil && date.Sub(now).Abs() <= 24*time.Hour {
		return date
	}
	return now
}
