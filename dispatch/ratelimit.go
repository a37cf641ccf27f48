package dispatch

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/dunglas/httpsfv"
)

// quotaNames are the headers in which APIs say what remains of a quota, and
// when it is reset. Some write X-Rate-Limit with one more hyphen.
var quotaNames = []struct{ remaining, reset string }{
	{"Ratelimit-Remaining", "Ratelimit-Reset"},
	{"X-Ratelimit-Remaining", "X-Ratelimit-Reset"},
	{"X-Rate-Limit-Remaining", "X-Rate-Limit-Reset"},
}

// epoch is the least number that is taken for a time since 1970 rather than for
// one from now: no quota lasts thirty years. From epoch times 1000 on it is in
// milliseconds.
const epoch = 1e9

// quotaAfter returns the time until the reset of a quota of which an answer says
// that nothing remains, the longest time if there are several such quotas. It is 0
// if something remains, or if the answer cannot be understood.
func quotaAfter(h http.Header, now time.Time) time.Duration {
	if values := h["Ratelimit"]; len(values) > 0 {
		return quotaField(values)
	}
	for _, names := range quotaNames {
		if remaining := items(h[names.remaining]); len(remaining) > 0 {
			return quotaItems(remaining, items(h[names.reset]), serverTime(h, now))
		}
	}
	return 0
}

// items returns the members of a header that may come as a list, or several times.
func items(lines []string) []string {
	var all []string
	for _, line := range lines {
		for item := range strings.SplitSeq(line, ",") {
			if item = strings.TrimSpace(item); item != "" {
				all = append(all, item)
			}
		}
	}
	return all
}

// quotaItems returns the longest time until the reset of a quota of which nothing
// remains. Each has the reset at its own place in the list; where there are more
// or fewer of these, every one may be its own.
func quotaItems(remaining, resets []string, now time.Time) time.Duration {
	longest := time.Duration(0)
	for i, item := range remaining {
		if left, err := strconv.ParseFloat(item, 64); err != nil || left > 0 {
			continue
		}
		own := resets
		if len(resets) == len(remaining) {
			own = resets[i : i+1]
		}
		for _, reset := range own {
			longest = max(longest, untilReset(reset, now))
		}
	}
	return longest
}

// quotaField reads the field of draft-ietf-httpapi-ratelimit-headers, a list of
// policies such as "burst";r=0;t=30, and that of its drafts up to 07, such as
// limit=100, remaining=0, reset=30.
func quotaField(values []string) time.Duration {
	longest := time.Duration(0)
	list, err := httpsfv.UnmarshalList(values)
	for _, member := range list {
		item, ok := member.(httpsfv.Item)
		if !ok || item.Params == nil {
			continue
		}
		remaining, _ := item.Params.Get("r")
		reset, _ := item.Params.Get("t")
		longest = max(longest, quotaLeft(remaining, reset))
	}
	if err == nil {
		return longest
	}
	dict, err := httpsfv.UnmarshalDictionary(values)
	if err != nil {
		return 0
	}
	bare := func(name string) any {
		member, _ := dict.Get(name)
		item, _ := member.(httpsfv.Item)
		return item.Value
	}
	return quotaLeft(bare("remaining"), bare("reset"))
}

// quotaLeft returns how long it is until the reset, 0 if something remains.
func quotaLeft(remaining, reset any) time.Duration {
	r, ok := remaining.(int64)
	t, timed := reset.(int64)
	if !ok || !timed || r > 0 {
		return 0
	}
	return seconds(float64(t))
}

// untilReset reads when a quota is reset: in so many seconds, or at a time.
func untilReset(value string, now time.Time) time.Duration {
	if value == "" || strings.Trim(value, "0123456789.") != "" {
		return 0
	}
	n, err := strconv.ParseFloat(value, 64)
	switch {
	case err != nil:
		return 0
	case n >= 1000*epoch:
		n /= 1000
		fallthrough
	case n >= epoch:
		return seconds(n - float64(now.UnixMilli())/1000)
	}
	return seconds(n)
}

// seconds returns a duration that is neither negative nor more than is believed.
func seconds(n float64) time.Duration {
	switch {
	case n <= 0:
		return 0
	case n >= maxRetryAfter.Seconds():
		return maxRetryAfter
	}
	return time.Duration(n * float64(time.Second))
}
