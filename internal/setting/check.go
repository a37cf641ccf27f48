package setting

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Report records the faults of settings. A path is as in a configuration file:
// "targets[1].timeout".
type Report interface {
	// IsSet reports whether a setting has an explicit value.
	IsSet(path string) bool
	// IsBroken reports whether the value of a setting, or of its parent, could not be
	// read. Such a setting gets no further faults.
	IsBroken(path string) bool
	// Where names a setting, with its line if it has one.
	Where(path string) string
	// Fault records a fault of a setting, with the expected value.
	Fault(path, detail string)
}

// Checker checks settings below one path.
type Checker struct {
	report Report
	within string
}

// NewChecker returns a checker of all settings.
func NewChecker(r Report) *Checker { return &Checker{report: r} }

// In returns a checker of the settings within a key of this one, such as "limits" or
// "endpoints[2]".
func (c *Checker) In(key string) *Checker { return &Checker{report: c.report, within: c.path(key)} }

func (c *Checker) path(key string) string {
	switch {
	case c.within == "":
		return key
	case key == "" || strings.HasPrefix(key, "["):
		return c.within + key
	}
	return c.within + "." + key
}

// IsSet reports whether a setting was given a value.
func (c *Checker) IsSet(key string) bool { return c.report.IsSet(c.path(key)) }

// IsBroken reports whether one of the settings could not be read.
func (c *Checker) IsBroken(keys ...string) bool {
	return slices.ContainsFunc(keys, func(key string) bool { return c.report.IsBroken(c.path(key)) })
}

// Where names a setting, with its line if it has one.
func (c *Checker) Where(key string) string { return c.report.Where(c.path(key)) }

// Check records an error as the fault of a setting, unless it is nil or the setting
// could not be read.
func (c *Checker) Check(key string, err error) {
	if err != nil && !c.IsBroken(key) {
		c.report.Fault(c.path(key), err.Error())
	}
}

// Faultf records a fault of a setting, unless the setting could not be read.
func (c *Checker) Faultf(key, format string, args ...any) {
	c.Check(key, fmt.Errorf(format, args...))
}

// Int checks that a number is from least to most.
func (c *Checker) Int(key string, n, least, most int) {
	if n < least || n > most {
		c.Faultf(key, "the number is %d: expected %d to %d", n, least, most)
	}
}

// Size checks that a number of bytes is from least to most.
func (c *Checker) Size(key string, n, least, most int64) {
	if n < least || n > most {
		c.Faultf(key, "the size is %s: expected %s to %s", ByteSize(n), ByteSize(least), ByteSize(most))
	}
}

// Duration checks that a duration is from least to most.
func (c *Checker) Duration(key string, d, least, most time.Duration) {
	if d < least || d > most {
		c.Faultf(key, "the duration is %s: expected %s to %s", Duration(d), Duration(least), Duration(most))
	}
}

// Choice checks that a text is one of the choices.
func (c *Checker) Choice(key, text string, choices []string) {
	if !slices.Contains(choices, text) {
		c.Faultf(key, "unknown value %q: expected %s", Clip(text), OneOf(choices))
	}
}

// SizesInOrder checks that one size does not exceed another.
func (c *Checker) SizesInOrder(lesser string, value int64, greater string, bound int64) {
	if value > bound {
		c.outOfOrder(lesser, ByteSize(value).String(), greater, ByteSize(bound).String())
	}
}

// DurationsInOrder checks that one duration does not exceed another.
func (c *Checker) DurationsInOrder(lesser string, value time.Duration, greater string, bound time.Duration) {
	if value > bound {
		c.outOfOrder(lesser, Duration(value), greater, Duration(bound))
	}
}

// outOfOrder records a fault of the lesser of two settings, or of the greater if only
// that one is set.
func (c *Checker) outOfOrder(lesser, value, greater, bound string) {
	switch {
	case c.IsBroken(lesser, greater):
	case !c.IsSet(lesser):
		c.Faultf(greater, "%s is less than %s, which is %s", bound, c.path(lesser), value)
	default:
		c.Faultf(lesser, "%s is more than %s, which is %s", value, c.path(greater), bound)
	}
}

// Faults is a [Report] of settings that do not come from a file: all of them count as
// set.
type Faults struct{ errs []error }

// IsSet implements [Report].
func (*Faults) IsSet(string) bool { return true }

// IsBroken implements [Report].
func (*Faults) IsBroken(string) bool { return false }

// Where implements [Report].
func (*Faults) Where(path string) string { return path }

// Fault implements [Report].
func (f *Faults) Fault(path, detail string) { f.errs = append(f.errs, errors.New(path+": "+detail)) }

// Err returns all faults, or nil if there are none.
func (f *Faults) Err() error { return errors.Join(f.errs...) }
