package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/batchd/batchd/client"
)

const (
	// rateWindow is the time over which the rate is measured: long enough to be
	// steady, short enough to follow a target that slows down.
	rateWindow = 15 * time.Second
	// plainEvery is the time between two lines if there is no terminal.
	plainEvery = 5 * time.Second
)

// progress shows the progress of a batch: on a terminal as a bar that it redraws,
// elsewhere as a line every few seconds.
type progress struct {
	out io.Writer
	// width returns the columns of the terminal, or 0 without one.
	width func() int
	now   func() time.Time

	samples []sample
	printed time.Time
	drawn   bool
}

type sample struct {
	at   time.Time
	done int
}

func newProgress(out io.Writer) *progress {
	out = unwrapped(out) // the bar needs control characters
	return &progress{out: out, width: func() int { return terminalWidth(out) }, now: time.Now}
}

// update shows the present state of the batch.
func (p *progress) update(b *client.Batch) {
	now := p.now()
	p.samples = append(p.samples, sample{now, b.Counts.Done()})
	for len(p.samples) > 2 && now.Sub(p.samples[0].at) > rateWindow {
		p.samples = p.samples[1:]
	}
	if width := p.width(); width > 0 {
		// The last column stays free: some terminals wrap when it is written.
		fmt.Fprintf(p.out, "\r\x1b[K%s", p.bar(&b.Counts, width-1))
		p.drawn = true
		return
	}
	if p.printed.IsZero() || now.Sub(p.printed) >= plainEvery {
		p.printed = now
		fmt.Fprintln(p.out, p.line(b))
	}
}

// clear removes the bar, so that other text can follow.
func (p *progress) clear() {
	if p.drawn {
		fmt.Fprint(p.out, "\r\x1b[K")
		p.drawn = false
	}
}

// rate returns the actions that end per second, and the time for the rest at that rate;
// both are 0 if they are unknown.
func (p *progress) rate(c *client.Counts) (perSecond float64, left time.Duration) {
	first, last := p.samples[0], p.samples[len(p.samples)-1]
	elapsed := last.at.Sub(first.at).Seconds()
	if elapsed <= 0 || last.done <= first.done {
		return 0, 0
	}
	perSecond = float64(last.done-first.done) / elapsed
	return perSecond, time.Duration(float64(c.Pending) / perSecond * float64(time.Second))
}

// bar returns one line of at most width columns.
func (p *progress) bar(c *client.Counts, width int) string {
	text := fmt.Sprintf(" %3d%%  %s/%s", percent(c), grouped(c.Done()), grouped(c.Total))
	if perSecond, left := p.rate(c); perSecond > 0 {
		text += fmt.Sprintf("  %s/s", formatRate(perSecond))
		if c.Pending > 0 {
			text += "  " + roughly(left) + " left"
		}
	}
	if bad := notSucceeded(c); bad != "" {
		text += "  " + bad
	}
	cells := min(width-len(text)-2, 30)
	if cells < 5 { // too narrow for a bar
		return text[1:min(len(text), max(width, 1))]
	}
	full := 0
	if c.Total > 0 {
		full = cells * c.Done() / c.Total
	}
	return "[" + strings.Repeat("=", full) + strings.Repeat(" ", cells-full) + "]" + text
}

func (p *progress) line(b *client.Batch) string {
	c := &b.Counts
	text := fmt.Sprintf("%s: %d of %d done (%d%%)", visible(string(b.Status)), c.Done(), c.Total, percent(c))
	if perSecond, left := p.rate(c); perSecond > 0 && c.Pending > 0 {
		text += fmt.Sprintf(", %s/s, %s left", formatRate(perSecond), roughly(left))
	}
	if bad := notSucceeded(c); bad != "" {
		text += ", " + bad
	}
	return text
}

// summary describes the end of a batch.
func summary(b *client.Batch) string {
	text := fmt.Sprintf("%s: %s", visible(string(b.Status)), outcomes(&b.Counts))
	if b.EndedAt != nil {
		text += " in " + duration(b.EndedAt.Sub(b.CreatedAt))
	}
	return text
}

// outcomes lists the counts that are not zero.
func outcomes(c *client.Counts) string {
	var parts []string
	for _, o := range append(client.Outcomes()[1:], client.Pending) {
		if n := c.Of(o); n > 0 {
			parts = append(parts, fmt.Sprintf("%s %s", grouped(n), o))
		}
	}
	if parts == nil {
		return "no actions"
	}
	return strings.Join(parts, ", ")
}

func notSucceeded(c *client.Counts) string {
	bad := *c
	bad.Succeeded, bad.Pending = 0, 0
	if c.Done() == c.Succeeded {
		return ""
	}
	return outcomes(&bad)
}

// percent returns 100 only if all actions are done.
func percent(c *client.Counts) int {
	if c.Total == 0 {
		return 100
	}
	return 100 * c.Done() / c.Total
}

func formatRate(perSecond float64) string {
	if perSecond < 10 {
		return strconv.FormatFloat(perSecond, 'f', 1, 64)
	}
	return grouped(int(perSecond))
}

// grouped formats 12345 as 12,345.
func grouped(n int) string {
	digits := strconv.Itoa(n)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// roughly rounds a forecast, which is never exact.
func roughly(d time.Duration) string {
	switch {
	case d < time.Second:
		return "<1s"
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()+0.5))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	}
	d = min(d, 999*time.Hour) // a longer forecast is meaningless
	return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
}

// duration formats about three digits.
func duration(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < time.Minute:
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}
