package dispatch

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// maxRetryAfter is the longest wait that is believed. The target's retry policy
// bounds it further.
const maxRetryAfter = 24 * time.Hour

// retryAfter returns how long an answer asks to wait (RFC 9110 §10.2.3), or 0
// if it does not ask, or not in a way that can be understood. Beside the whole
// seconds of the RFC it reads decimals, which some APIs send.
func retryAfter(h http.Header, now time.Time) time.Duration {
	value := strings.TrimSpace(h.Get("Retry-After"))
	if value == "" {
		return 0
	}
	if strings.Trim(value, "0123456789.") == "" {
		// A value too great comes as +Inf, one that is no number as 0.
		seconds, _ := strconv.ParseFloat(value, 64)
		if seconds >= maxRetryAfter.Seconds() {
			return maxRetryAfter
		}
		return time.Duration(seconds * float64(time.Second))
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	// The target made the date by its own clock, and Date tells what that shows.
	// A Date that is a day off comes from a broken clock or an old cache.
	if date, err := http.ParseTime(h.Get("Date")); err == nil && date.Sub(now).Abs() <= 24*time.Hour {
		now = date
	}
	return min(max(at.Sub(now), 0), maxRetryAfter)
}
