package rdb

import (
	"errors"
	"fmt"
	"strconv"
	"time"
)

// ErrAnswer says that a step answered what it never answers: another version of it ran.
var ErrAnswer = errors.New("unexpected answer of a step")

// Texts returns the parts of an answer as strings.
func Texts(parts []any) []string {
	out := make([]string, len(parts))
	for i, part := range parts {
		out[i] = Text(part)
	}
	return out
}

// Text returns a part of an answer, or an argument of a command, as a string. Nil is the empty string.
func Text(part any) string {
	switch v := part.(type) {
	case string:
		return v
	case nil:
		return ""
	default:
		return fmt.Sprint(v)
	}
}

// Atoi returns the number that one of our own steps has written, or 0 if s holds none.
func Atoi(s string) int64 {
	n, _ := strconv.ParseInt(s, 10, 64)
	return n
}

// Millis returns a duration in whole milliseconds, as the steps take durations.
func Millis(d time.Duration) int64 { return d.Milliseconds() }

// FromMillis returns the time that a step has written, in milliseconds since 1970, or the zero time if
// s is empty.
func FromMillis(s string) time.Time {
	if s == "" {
		return time.Time{}
	}
	return time.UnixMilli(Atoi(s)).UTC()
}

// MillisOf returns a time as the steps write times: in milliseconds since 1970.
func MillisOf(t time.Time) string { return strconv.FormatInt(t.UnixMilli(), 10) }

// FieldsOf returns the names of the hash fields of actions, by their indexes.
func FieldsOf(indexes []int) []string {
	fields := make([]string, len(indexes))
	for i, index := range indexes {
		fields[i] = strconv.Itoa(index)
	}
	return fields
}
