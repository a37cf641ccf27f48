package intake

import "regexp"

var durationForm = regexp.MustCompile(`^[-+]?((\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h))+$`)

// IsDuration reports whether the text has the form for [time.ParseDuration], even if it
// is longer than the longest duration.
func IsDuration(text string) bool { return durationForm.MatchString(text) }
