package intake

import "regexp"

var durationForm = regexp.MustCompile(`^[-+]?((\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h))+$`)

// IsDuration reports whether the text has the form that [time.ParseDuration] reads,
// also where it is longer than a duration can be.
func IsDuration(text string) bool { return durationForm.MatchString(text) }
