package audit

import "time"

const (
	// window is the time in which failures of authentication are counted.
	window = time.Minute
	// linesPerSource is how many failures from one source have lines of their own in a window, and mostSources
	// how many sources are told apart. All others together are one more.
	linesPerSource = 10
	mostSources    = 50
)

// failures bounds the lines about requests without a valid credential, which any client can send.
type failures struct {
	sources map[string]*source
	end     *time.Timer
}

// source is where failures come from in a window.
type source struct {
	lines      int
	suppressed int
	client     string // the last one
}

// RecordFailure writes an event of a refused request whose client was not authenticated, or may have invented the
// credential. In a minute it writes at most ten lines about one source, such as an address, and counts the others; a line with their number follows.
func (l *Log) RecordFailure(e Event, from string) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	f := &l.failures
	s, client := f.sources[from], e.Client
	if s == nil {
		if f.sources == nil {
			f.sources = make(map[string]*source)
			f.end = time.AfterFunc(window, func() {
				l.mu.Lock()
				defer l.mu.Unlock()
				l.summarize()
			})
		}
		if len(f.sources) >= mostSources {
			from, client = "", "" // all others
			s = f.sources[from]
		}
		if s == nil {
			s = &source{}
			f.sources[from] = s
		}
	}
	s.client = client
	if s.lines < linesPerSource {
		s.lines++
		l.write(e)
		return
	}
	s.suppressed++
}

// summarize ends a window: it writes how many failures had no line.
func (l *Log) summarize() {
	f := &l.failures
	if f.end != nil {
		f.end.Stop()
	}
	for _, s := range f.sources {
		if s.suppressed > 0 {
			l.write(Event{Name: AuthFailed, Result: Refused, Client: s.client, Suppressed: s.suppressed})
		}
	}
	f.sources, f.end = nil, nil
}
