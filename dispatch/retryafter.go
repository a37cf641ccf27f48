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
		n, _ := strconv.ParseFloat(value, 64)
		return seconds(n)
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	return min(max(at.Sub(serverTime(h, now)), 0), maxRetryAfter)
}

// serverTime returns what the target's clock shows, by which it makes the times
// in its answer: Date tells. One that is a day off comes from a broken clock or
// an old cache.
func serverTime(h http.Header, now time.Time) time.Time {
	if date, err := http.ParseTime(h.Get("Date")); err == nil && date.Sub(now).Abs() <= 24*time.Hour {
		return date
	}
	return now
}
