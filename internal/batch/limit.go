package batch

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Rate is a number of requests in a window. The zero value is no limit.
type Rate struct {
	N   int
	Per time.Duration
}

var rateUnits = map[string]time.Duration{
	"s": time.Second, "sec": time.Second, "second": time.Second,
	"m": time.Minute, "min": time.Minute, "minute": time.Minute,
	"h": time.Hour, "hour": time.Hour, "d": 24 * time.Hour, "day": 24 * time.Hour,
}

// ParseRate reads a rate such as "1500/min", "10/s" or "100/15m".
func ParseRate(text string) (Rate, error) {
	const expected = "expected for example 1500/min, 10/s or 100/15m"
	count, window, ok := strings.Cut(text, "/")
	n, err := strconv.Atoi(count)
	if !ok || err != nil || n < 1 {
		return Rate{}, fmt.Errorf("cannot read %q as a rate: %s", clip(text), expected)
	}
	per, known := rateUnits[window]
	if !known {
		if per, err = time.ParseDuration(window); err != nil || per < time.Second || per > 24*time.Hour {
			return Rate{}, fmt.Errorf("cannot read %q as a rate: %s", clip(text), expected)
		}
	}
	return Rate{N: n, Per: per}, nil
}

// String writes the rate as ParseRate reads it.
func (r Rate) String() string {
	switch r.Per {
	case 0:
		return ""
	case time.Second:
		return fmt.Sprintf("%d/s", r.N)
	case time.Minute:
		return fmt.Sprintf("%d/min", r.N)
	case time.Hour:
		return fmt.Sprintf("%d/hour", r.N)
	default:
		return fmt.Sprintf("%d/%s", r.N, r.Per)
	}
}

// UnmarshalText implements [encoding.TextUnmarshaler].
func (r *Rate) UnmarshalText(text []byte) (err error) {
	if len(text) == 0 { // as MarshalText writes no rate
		*r = Rate{}
		return nil
	}
	*r, err = ParseRate(string(text))
	return err
}

// MarshalText implements [encoding.TextMarshaler].
func (r Rate) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// Limit is what one owner may have.
type Limit struct {
	// Scope tells limits of one owner apart: "" for the owner's over all, else
	// an endpoint's path.
	Scope string
	// Rate bounds the actions that are admitted in any window of its length.
	// Zero means no bound.
	Rate Rate
	// Concurrent bounds the actions that are admitted and have not ended. Zero
	// means no bound.
	Concurrent int
}

// LimitState is what a limit says of its owner just now.
type LimitState struct {
	Limit Limit
	// Remaining is the number of actions that the rate would admit now; it is
	// meaningless where the limit has no rate.
	Remaining int
	// Free is the number of actions that there is room for in flight; it is
	// meaningless where the limit has no such bound.
	Free int
	// Reset is the time until the rate is back at its whole.
	Reset time.Duration
}

// LimitedError says that a submission would exceed its owner's limit. Nothing
// was admitted.
type LimitedError struct {
	State LimitState
	// RetryAfter is when the same submission is admitted, if nothing else is in
	// the meantime; for concurrency it is an estimate. Zero means never: the
	// submission is larger than the limit.
	RetryAfter time.Duration
	// Detail says which limit, and by how much.
	Detail string
}

// Error implements error.
func (e *LimitedError) Error() string { return e.Detail }
