package api

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// preferences are the preferences in a Prefer header (RFC 7240). Unknown and malformed
// preferences are ignored, as RFC 7240 §2 requires.
type preferences struct {
	// wait is how long the client is willing to wait; waits: the client set it.
	wait  time.Duration
	waits bool
	// async asks for an answer before the batch has ended.
	async bool
}

func parsePrefer(h http.Header) preferences {
	var p preferences
	for _, line := range h.Values("Prefer") {
		for _, item := range splitQuoted(line, ',') {
			// Parameters follow after a semicolon; none is defined for these.
			name, value, _ := strings.Cut(splitQuoted(item, ';')[0], "=")
			value = strings.Trim(strings.TrimSpace(value), `"`)
			switch strings.ToLower(strings.TrimSpace(name)) {
			case "respond-async":
				p.async = true
			case "wait":
				if wait, ok := parseWait(value); ok && !p.waits { // the first one counts
					p.wait, p.waits = wait, true
				}
			}
		}
	}
	return p
}

// parseWait reads the seconds of a wait: any number of digits. The caller shortens a
// wait that is longer than the server allows.
func parseWait(value string) (time.Duration, bool) {
	const most = 1<<31 - 1
	if value == "" || strings.Trim(value, "0123456789") != "" {
		return 0, false
	}
	seconds, err := strconv.ParseUint(value, 10, 64)
	if err != nil {
		seconds = most // the number has too many digits for an integer
	}
	return time.Duration(min(seconds, most)) * time.Second, true
}

// waitFor returns how long to wait for the end of a batch, and the value of
// Preference-Applied.
func (p preferences) waitFor(def, most time.Duration) (time.Duration, string) {
	switch {
	case p.waits:
		wait := min(p.wait, most)
		return wait, "wait=" + strconv.Itoa(int(wait/time.Second))
	case p.async:
		return 0, "respond-async"
	}
	return def, ""
}

// splitQuoted splits at separators that are not inside a quoted string. It
// returns at least one element.
func splitQuoted(s string, sep byte) []string {
	var parts []string
	start, quoted := 0, false
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && quoted:
			i++
		case s[i] == '"':
			quoted = !quoted
		case s[i] == sep && !quoted:
			parts = append(parts, s[start:i])
			start = i + 1
		}
	}
	return append(parts, s[start:])
}
