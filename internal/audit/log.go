package audit

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// lookEvery is how often a log looks whether its file was moved, at most.
	lookEvery = time.Second
	// complainEvery is how often a log reports faults of writing, at most.
	complainEvery = 10 * time.Second
)

// Log is an audit log. A nil Log writes nothing. It is safe for concurrent use; several processes may append to one
// file, because each line is one write.
type Log struct {
	path string
	log  *slog.Logger
	lost prometheus.Counter

	mu   sync.Mutex
	out  io.Writer
	file *os.File // what out is, unless it is standard output
	// looked is when path was last compared with the file.
	looked time.Time
	// torn: the last line was written in part.
	torn bool
	// complained is when a fault was last reported, and silent how many were not.
	complained time.Time
	silent     int
	failures   failures
}

// Open opens the audit log, or returns nil if there is none. Stdout is the standard output of the process. The
// registerer may be nil.
func Open(cfg Config, stdout io.Writer, log *slog.Logger, registerer prometheus.Registerer) (*Log, error) {
	if cfg.Output == "" {
		return nil, nil
	}
	l := &Log{path: cfg.Output, log: log, out: stdout, lost: prometheus.NewCounter(prometheus.CounterOpts{
		Name: "batchd_audit_lost_total", Help: "Lines that could not be written to the audit log.",
	})}
	if cfg.Output != Stdout {
		if err := l.reopen(); err != nil {
			return nil, fmt.Errorf("open the audit log: %w", err)
		}
		if info, err := l.file.Stat(); err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
			log.Warn("other users may read or change the audit log", "path", cfg.Output, "mode", info.Mode().Perm().String())
		}
	}
	if registerer != nil {
		if err := registerer.Register(l.lost); err != nil {
			return nil, errors.Join(fmt.Errorf("register the metrics of the audit log: %w", err), l.Close())
		}
	}
	return l, nil
}

// Record writes an event. The version and the time are set. If it cannot be written, the log reports and counts
// that; what was done goes on.
func (l *Log) Record(e Event) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.write(e)
}

// Close writes what was held back, and closes the file.
func (l *Log) Close() error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.summarize()
	if l.file == nil {
		return nil
	}
	return l.file.Close()
}

func (l *Log) write(e Event) {
	now := time.Now()
	line, err := e.line(now)
	if err == nil {
		err = l.append(line, now)
	}
	if err == nil {
		return
	}
	l.lost.Inc()
	l.complain(now, "a line of the audit log was not written", "event", e.Name, "request_id", e.RequestID, "error", err)
}

// complain reports a fault, unless it reported one a moment ago.
func (l *Log) complain(now time.Time, what string, args ...any) {
	if now.Sub(l.complained) < complainEvery {
		l.silent++
		return
	}
	l.log.Error("the audit log has a fault", append(args, "reason", what, "others", l.silent)...)
	l.complained, l.silent = now, 0
}

// append writes a line at the end.
func (l *Log) append(line []byte, now time.Time) error {
	if l.path != Stdout && now.Sub(l.looked) >= lookEvery {
		l.looked = now
		if err := l.follow(); err != nil {
			l.complain(now, "the audit log cannot be opened again, lines go to the file that was moved", "error", err)
		}
	}
	if l.torn {
		line = append([]byte{'\n'}, line...)
	}
	n, err := l.out.Write(line)
	if n > 0 {
		l.torn = n < len(line)
	}
	return err
}

// follow opens the file again if the path leads to another file, or to none.
func (l *Log) follow() error {
	is, err := l.file.Stat()
	if err != nil {
		return l.reopen()
	}
	if should, err := os.Stat(l.path); err == nil && os.SameFile(is, should) {
		return nil
	}
	return l.reopen()
}

func (l *Log) reopen() error {
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if l.file != nil {
		_ = l.file.Close() // every write has been made
	}
	l.file, l.out, l.torn = f, f, false
	return nil
}
