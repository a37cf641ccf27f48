package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/batchd/batchd/internal/setting"
)

// Fault is one fault of the configuration, and its place.
type Fault struct {
	// File is where to correct the fault: a file, or the name of a variable or flag. It
	// is empty if the setting is missing everywhere.
	File string
	// Line and Column count from 1. They are 0 if the fault has no line, as in a
	// variable or a flag.
	Line, Column int
	// Key is the path of the setting, such as "targets[1].timeout". It is empty for the
	// file as a whole, and for a variable or flag that is not a setting.
	Key string
	// Detail describes the fault and the expected value. It never contains a secret.
	Detail string
}

// String returns the fault on one line.
func (f Fault) String() string {
	var b strings.Builder
	if f.File != "" {
		b.WriteString(f.File)
		if f.Line > 0 {
			fmt.Fprintf(&b, ":%d", f.Line)
		}
		b.WriteString(": ")
	}
	// A variable or a flag already names its setting.
	if f.Key != "" && !isOverride(f.File) {
		b.WriteString(f.Key + ": ")
	}
	b.WriteString(f.Detail)
	return b.String()
}

// Error has every fault of a configuration, in the order of the file.
type Error struct {
	Faults []Fault
}

// Error returns the faults, one per line.
func (e *Error) Error() string {
	lines := make([]string, len(e.Faults))
	for i, f := range e.Faults {
		lines[i] = f.String()
	}
	return strings.Join(lines, "\n")
}

// place is the place that a value comes from. The zero place belongs to a default.
type place struct {
	file         string
	line, column int
}

// String formats the place as in a fault.
func (p place) String() string {
	if p.line == 0 {
		return p.file
	}
	return fmt.Sprintf("%s:%d", p.file, p.line)
}

// ledger records the place of each setting, and its faults.
type ledger struct {
	places map[string]place
	faults []Fault
}

// place returns the place of a setting. For a setting without a line it is the place of
// its parent.
func (l *ledger) place(key string) place {
	for {
		if p, ok := l.places[key]; ok {
			return p
		}
		if key == "" {
			return place{}
		}
		key = parent(key)
	}
}

// IsSet reports whether the file, a variable or a flag sets exactly this setting.
func (l *ledger) IsSet(key string) bool {
	_, ok := l.places[key]
	return ok
}

// parent returns the parent of a path: "a[1].b" is in "a[1]", and "a[1]" is in "a".
func parent(key string) string {
	return key[:max(0, strings.LastIndexAny(key, ".["))]
}

// forget drops the records of a setting and of all settings in it.
func (l *ledger) forget(key string) {
	for k := range l.places {
		if within(k, key) {
			delete(l.places, k)
		}
	}
}

func within(key, outer string) bool {
	rest, ok := strings.CutPrefix(key, outer)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

// fault records a fault of a setting at its place.
func (l *ledger) fault(key, format string, args ...any) {
	l.faultAt(l.place(key), key, format, args...)
}

func (l *ledger) faultAt(p place, key, format string, args ...any) {
	l.faults = append(l.faults, Fault{
		File: p.file, Line: p.line, Column: p.column,
		Key: key, Detail: fmt.Sprintf(format, args...),
	})
}

// IsBroken reports whether the present value of a setting, or of its parent, could not
// be read. Further faults that follow from that are not reported.
func (l *ledger) IsBroken(key string) bool {
	p := l.place(key)
	return slices.ContainsFunc(l.faults, func(f Fault) bool {
		return within(key, f.Key) && f.Key != "" && f.File == p.file && f.Line == p.line
	})
}

// Where names a setting and its line, for a fault that names two settings.
func (l *ledger) Where(key string) string {
	p := l.place(key)
	if p.line == 0 {
		return key
	}
	return fmt.Sprintf("%s (line %d)", key, p.line)
}

// Fault implements [setting.Report].
func (l *ledger) Fault(key, detail string) { l.fault(key, "%s", detail) }

// err returns the faults as an [*Error], or nil.
func (l *ledger) err() error {
	if len(l.faults) == 0 {
		return nil
	}
	slices.SortStableFunc(l.faults, func(a, b Fault) int {
		return cmp.Or(
			compareBool(isOverride(a.File), isOverride(b.File)),
			strings.Compare(a.File, b.File),
			a.Line-b.Line,
			a.Column-b.Column,
		)
	})
	return &Error{Faults: l.faults}
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// suggest returns an addition to a message about an unknown word: the known word that
// was probably meant, or all of them.
func suggest(word string, known []string) string {
	if hint := nearest(word, known); hint != "" || len(known) == 0 {
		return hint
	}
	return ": expected " + setting.OneOf(known)
}

// nearest returns ": did you mean …?" for the only known word that differs from a mistyped
// one in a letter or, if it is not short, in two. Otherwise it returns "": a wrong suggestion is
// worse than none.
func nearest(word string, known []string) string {
	best, least, tied := "", 2, false
	if len(strings.TrimPrefix(word, envPrefix)) > 5 {
		least = 3
	}
	for _, k := range known {
		switch d := editDistance(strings.ToLower(word), strings.ToLower(k)); {
		case d < least:
			best, least, tied = k, d, false
		case d == least:
			tied = true
		}
	}
	if best == "" || tied {
		return ""
	}
	return fmt.Sprintf(": did you mean %s?", best)
}

// editDistance returns the Levenshtein distance in bytes, in which two neighbours that are exchanged are one fault.
func editDistance(a, b string) int {
	var before []int
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		next := make([]int, len(b)+1)
		next[0] = i + 1
		for j := range len(b) {
			substitute := row[j]
			if a[i] != b[j] {
				substitute++
			}
			next[j+1] = min(substitute, row[j+1]+1, next[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				next[j+1] = min(next[j+1], before[j-1]+1)
			}
		}
		before, row = row, next
	}
	return row[len(b)]
}
