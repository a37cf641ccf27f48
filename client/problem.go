package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Problem is an error answer of the server (RFC 9457, "problem details").
type Problem struct { //nolint:errname // the name that RFC 9457 gives it
	// Type identifies the kind of problem, often "about:blank".
	Type string `json:"type,omitempty"`
	// Title names the kind of problem, Detail this occurrence.
	Title  string `json:"title,omitempty"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
	// Instance identifies the occurrence, or is empty.
	Instance string `json:"instance,omitempty"`
	// Errors lists the faults of a submission.
	Errors []Fault `json:"errors,omitempty"`
	// More is the number of faults beyond those in Errors.
	More int `json:"more,omitempty"`
	// RetryAfter is the time that the server asks to wait, at most 24h, or 0 if it does
	// not ask. The longest of several times counts.
	RetryAfter time.Duration `json:"-"`
}

// Fault is one fault of a submission, and its place.
type Fault struct {
	// Index is the index of the action, or -1 for the batch itself.
	Index int `json:"index"`
	// Pointer is a JSON pointer (RFC 6901) to the faulty member.
	Pointer string `json:"pointer,omitempty"`
	// Detail describes the fault and the expected value.
	Detail string `json:"detail"`
}

// UnmarshalJSON implements [json.Unmarshaler]. A fault without an index concerns the
// batch.
func (f *Fault) UnmarshalJSON(data []byte) error {
	type plain Fault
	doc := plain{Index: -1}
	if err := json.Unmarshal(data, &doc); err != nil {
		return fmt.Errorf("decode fault: %w", err)
	}
	*f = Fault(doc)
	return nil
}

// String returns the place and the detail of the fault on one line.
func (f Fault) String() string {
	f.Pointer, f.Detail = oneLine(f.Pointer), oneLine(f.Detail)
	switch {
	case f.Index >= 0 && f.Pointer != "":
		return fmt.Sprintf("action %d, %s: %s", f.Index, f.Pointer, f.Detail)
	case f.Index >= 0:
		return fmt.Sprintf("action %d: %s", f.Index, f.Detail)
	case f.Pointer != "":
		return fmt.Sprintf("%s: %s", f.Pointer, f.Detail)
	}
	return f.Detail
}

// faultsInMessage bounds the faults that an error message lists.
const faultsInMessage = 5

// Error returns the server's message, with the first faults on lines of their own.
func (p *Problem) Error() string {
	var msg strings.Builder
	msg.WriteString(p.Summary())
	listed := min(len(p.Errors), faultsInMessage)
	for _, f := range p.Errors[:listed] {
		msg.WriteString("\n  " + f.String())
	}
	if more := len(p.Errors) - listed + p.More; more > 0 {
		fmt.Fprintf(&msg, "\n  and %d more", more)
	}
	return msg.String()
}

// Summary returns the message without the faults, on one line.
func (p *Problem) Summary() string {
	what := p.Detail
	if what == "" {
		what = p.Title
	}
	if what == "" {
		what = strings.ToLower(http.StatusText(p.Status))
	}
	what = oneLine(what)
	if p.RetryAfter > 0 {
		return fmt.Sprintf("the server answered %d: %s (come back in %s)", p.Status, what, p.RetryAfter)
	}
	return fmt.Sprintf("the server answered %d: %s", p.Status, what)
}

// maxProblemBody is the most bytes that the client reads of an error answer.
const maxProblemBody = 4 << 20

func readProblem(resp *http.Response) *Problem {
	p := &Problem{}
	mediaType, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	isJSON := mediaType == "application/json" || strings.HasSuffix(mediaType, "+json")
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxProblemBody))
	if err != nil || !isJSON || json.Unmarshal(body, p) != nil {
		// The answer is not batchd's: it comes from a proxy, or from another server at
		// this address.
		*p = Problem{}
		switch {
		case resp.StatusCode == http.StatusBadRequest && resp.Request.URL.Scheme == "http" && strings.Contains(string(body), "HTTP request to an HTTPS server"):
			// The answer of Go's servers.
			p.Detail = "the server expects https: use the URL https://" + resp.Request.URL.Host
		case mediaType == "text/plain":
			p.Detail = clip(strings.TrimSpace(string(body)))
		}
	}
	p.Status = resp.StatusCode
	p.RetryAfter = parseRetryAfter(resp.Header, time.Now())
	if location := resp.Header.Get("Location"); p.Detail == "" && resp.StatusCode < http.StatusBadRequest && location != "" {
		p.Detail = "it redirects to " + clip(location) + ", which is not followed: use the URL of the server itself"
	}
	return p
}

// parseRetryAfter returns how long an answer asks to wait, in seconds or until a date
// (RFC 9110 §10.2.3), or 0 if it does not ask. The longest of several times counts.
// Dates are relative to the server's clock, which the answer's Date shows.
func parseRetryAfter(h http.Header, now time.Time) time.Duration {
	if date, err := http.ParseTime(h.Get("Date")); err == nil {
		now = date
	}
	longest := time.Duration(0)
	for _, line := range h.Values("Retry-After") {
		items := strings.Split(line, ",")
		for i := 0; i < len(items); i++ {
			after, ok := oneRetryAfter(items[i], now)
			if !ok && i+1 < len(items) { // two of the three date formats contain a comma
				if after, ok = oneRetryAfter(items[i]+","+items[i+1], now); ok {
					i++
				}
			}
			longest = max(longest, after)
		}
	}
	return longest
}

func oneRetryAfter(value string, now time.Time) (time.Duration, bool) {
	const most = 24 * time.Hour
	value = strings.TrimSpace(value)
	seconds, err := strconv.ParseUint(value, 10, 32)
	switch {
	case err == nil:
		return min(time.Duration(seconds)*time.Second, most), true
	case errors.Is(err, strconv.ErrRange):
		return most, true
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0, false
	}
	return min(max(at.Sub(now), 0), most), true
}

// oneLine makes foreign text safe for a message: it replaces control characters of
// terminals, and line ends by spaces.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsGraphic(r):
			return r
		case unicode.IsSpace(r):
			return ' '
		}
		return unicode.ReplacementChar
	}, s)
}

// clip shortens foreign text for a message and puts it on one line.
func clip(s string) string {
	const most = 200
	if s = oneLine(s); len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}
