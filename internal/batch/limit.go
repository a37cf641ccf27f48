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

// ParseRate parses a rate such as "1500/min", "10/s" or "100/15m".
func ParseRate(text string) (Rate, error) {
	const expected = "expected for example 1500/min, 10/s or 100/15m"
	count, window, ok := strings.Cut(text, "/")
	n, err := strconv.Atoi(count)
	if !ok || err != nil || n < 1 || count[0] == '+' {
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

// String formats the rate for ParseRate.
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
	if len(text) == 0 { // the form of the zero rate
		*r = Rate{}
		return nil
	}
	*r, err = ParseRate(string(text))
	return err
}

// MarshalText implements [encoding.TextMarshaler].
func (r Rate) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// Limit bounds the actions of one owner.
type Limit struct {
	// Scope distinguishes the limits of one owner: "" for the owner's limit over all
	// paths, else an endpoint's path.
	Scope string
	// Rate bounds the actions that are admitted in any window of its length.
	// Zero means no bound.
	Rate Rate
	// Concurrent bounds the actions that are admitted and have not ended. Zero
	// means no bound.
	Concurrent int
	// Address bounds the clients of the submission's address together, in addition. Nil means no such bound.
	Address *AddressLimit `json:",omitempty"`
}

// AddressLimit bounds the actions of all owners at one address.
type AddressLimit struct {
	// Name is a name that no owner has.
	Name string
	// Rate and Concurrent are as those of a [Limit].
	Rate       Rate
	Concurrent int
}

// LimitState is the present state of an owner's limit.
type LimitState struct {
	Limit Limit
	// Remaining is the number of actions that the rate would admit now. It has no
	// meaning for a limit without a rate.
	Remaining int
	// Free is the number of further actions that may be in flight. It has no meaning
	// for a limit without such a bound.
	Free int
	// Reset is the time until the rate has its full number again.
	Reset time.Duration
}

// LimitedError means that a submission would exceed its owner's limit. Nothing was
// admitted.
type LimitedError struct {
	State LimitState
	// RetryAfter is when the same submission is admitted, if no other is admitted in
	// the meantime; for concurrency it is an estimate. Zero means never: the submission
	// is larger than the limit.
	RetryAfter time.Duration
	// Detail names the limit and the excess.
	Detail string
}

// Error implements error.
func (e *LimitedError) Error() string { return e.Detail }

// OwnerLimits replace the configured limits of an owner. A zero field replaces nothing.
type OwnerLimits struct {
	// Rate bounds the actions that are admitted in any window of its length.
	Rate Rate `yaml:"rate" json:"rate,omitzero"`
	// Concurrent bounds the actions that are admitted and have not ended.
	Concurrent int `yaml:"concurrent" json:"concurrent,omitzero"`
}
