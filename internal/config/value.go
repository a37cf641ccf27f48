package config

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/batchd/batchd/api/dialect"
	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/intake"
)

// ByteSize is a number of bytes, written as "512KiB", "10MB" or plainly.
type ByteSize int64

var sizeUnits = []struct {
	name  string
	bytes int64
}{
	// Longest and largest first: reading takes the first suffix that fits,
	// writing the first unit that divides.
	{"GiB", 1 << 30},
	{"MiB", 1 << 20},
	{"KiB", 1 << 10},
	{"GB", 1e9},
	{"MB", 1e6},
	{"KB", 1e3},
	{"B", 1},
}

// ParseByteSize reads a size: digits, and B, KB, MB, GB, KiB, MiB or GiB.
func ParseByteSize(text string) (ByteSize, error) {
	digits, unit := text, int64(1)
	for _, u := range sizeUnits {
		if rest, ok := strings.CutSuffix(text, u.name); ok {
			digits, unit = rest, u.bytes
			break
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if errors.Is(err, strconv.ErrRange) || err == nil && n > (1<<63-1)/unit {
		return 0, fmt.Errorf("cannot read %q as a size: it is out of range", clip(text))
	}
	if err != nil || n < 0 || digits[0] == '+' {
		return 0, fmt.Errorf("cannot read %q as a size: expected for example 1MiB, 10MB or a number of bytes", clip(text))
	}
	return ByteSize(n * unit), nil
}

// String writes the size with the largest binary unit that divides it.
func (s ByteSize) String() string {
	for _, u := range sizeUnits[:3] {
		if s != 0 && int64(s)%u.bytes == 0 {
			return strconv.FormatInt(int64(s)/u.bytes, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// word is a setting that takes one of few values.
type word interface {
	~string
	known() []string
}

// LogLevel is the least level that is logged.
type LogLevel string

func (LogLevel) known() []string { return []string{"debug", "info", "warn", "error"} }

// Level returns the level as slog names it.
func (l LogLevel) Level() slog.Level {
	switch l {
	case "debug":
		return slog.LevelDebug
	case "warn":
		return slog.LevelWarn
	case "error":
		return slog.LevelError
	}
	return slog.LevelInfo
}

// LogFormat is how log lines are written.
type LogFormat string

// The log formats.
const (
	LogText LogFormat = "text"
	LogJSON LogFormat = "json"
)

func (LogFormat) known() []string { return []string{string(LogText), string(LogJSON)} }

// AuthMode says how callers prove who they are.
type AuthMode string

// The modes of authentication.
const (
	// AuthNone lets everybody in, as one owner.
	AuthNone AuthMode = "none"
	// AuthPassthrough takes the credentials meant for the target as the owner's
	// mark, and sends them on.
	AuthPassthrough AuthMode = "passthrough"
)

func (AuthMode) known() []string { return []string{string(AuthNone), string(AuthPassthrough)} }

// Dialect is the wire format of an endpoint.
type Dialect string

// DialectNative is batchd's own wire format.
const DialectNative Dialect = "native"

func (Dialect) known() []string { return append([]string{string(DialectNative)}, dialect.Names()...) }

// WhenExceeded says what becomes of a submission beyond its owner's limit.
type WhenExceeded string

// What becomes of such a submission.
const (
	// ExceededReject refuses all of it.
	ExceededReject WhenExceeded = "reject"
	// ExceededPerItem refuses the actions beyond the limit, each by itself.
	ExceededPerItem WhenExceeded = "per_item"
	// ExceededQueue runs all of it, as the limit allows.
	ExceededQueue WhenExceeded = "queue"
)

func (WhenExceeded) known() []string {
	return []string{string(ExceededReject), string(ExceededPerItem), string(ExceededQueue)}
}

// setText reads text into the setting that p points to. Its errors quote what
// was read, but no secret.
func setText(p any, text string) error {
	switch p := p.(type) {
	case *string:
		*p = text
		return checkNotEmpty(text)
	case *Secret:
		*p = Secret(text)
		return checkNotEmpty(text)
	case *RedisURL:
		*p = RedisURL(text)
	case *LogLevel:
		return setWord(p, text)
	case *LogFormat:
		return setWord(p, text)
	case *AuthMode:
		return setWord(p, text)
	case *Dialect:
		return setWord(p, text)
	case *WhenExceeded:
		return setWord(p, text)
	case *batch.Rate:
		if err := checkNotEmpty(text); err != nil {
			return err
		}
		return p.UnmarshalText([]byte(text))
	case *int:
		return setInt(p, text)
	case *bool:
		return setBool(p, text)
	case *time.Duration:
		return setDuration(p, text)
	case *ByteSize:
		return setSize(p, text)
	case *int64:
		// A target's sizes are plain int64, since its package knows no format.
		return setSize((*ByteSize)(p), text)
	case *[]SealKey:
		keys, err := parseSealKeys(text)
		if err != nil {
			return err
		}
		*p = keys
	default:
		return fmt.Errorf("expected %s", describe(p))
	}
	return nil
}

// checkNotEmpty refuses a text that is given, but empty, as where a template was
// filled in with nothing: it must not pass for the default.
func checkNotEmpty(text string) error {
	if text == "" {
		return errors.New("the value is empty: fill it in, or leave the key out for the default")
	}
	return nil
}

// describe says what a setting expects, for where something of another shape stands.
func describe(p any) string {
	switch p.(type) {
	case *int:
		return "a whole number"
	case *bool:
		return "true or false"
	case *time.Duration:
		return "a duration, for example 30s"
	case *batch.Rate:
		return "a rate, for example 1500/min"
	case *ByteSize, *int64:
		return "a size, for example 1MiB"
	case *[]SealKey, *[]int, *[]Endpoint:
		return "a list"
	}
	return "text"
}

func setWord[W word](p *W, text string) error {
	if known := (*p).known(); !slices.Contains(known, text) {
		return fmt.Errorf("unknown value %q: expected %s", clip(text), oneOf(known))
	}
	*p = W(text)
	return nil
}

func setInt(p *int, text string) error {
	n, err := strconv.Atoi(text)
	switch {
	case errors.Is(err, strconv.ErrRange):
		return fmt.Errorf("the number %q is too large", clip(text))
	case err != nil:
		return fmt.Errorf("cannot read %q as a whole number: expected for example 100", clip(text))
	}
	*p = n
	return nil
}

func setBool(p *bool, text string) error {
	switch text {
	case "true", "false":
		*p = text == "true"
		return nil
	}
	return fmt.Errorf("cannot read %q: expected true or false", clip(text))
}

func setDuration(p *time.Duration, text string) error {
	if _, err := strconv.ParseFloat(text, 64); err == nil {
		return fmt.Errorf("cannot read %q as a duration: its unit is missing: expected for example 30s", clip(text))
	}
	d, err := time.ParseDuration(text)
	if err != nil && intake.IsDuration(text) {
		return fmt.Errorf("the duration %q is out of range", clip(text))
	}
	if err != nil {
		return fmt.Errorf("cannot read %q as a duration: expected for example 30s", clip(text))
	}
	*p = d
	return nil
}

func setSize(p *ByteSize, text string) error {
	n, err := ParseByteSize(text)
	if err != nil {
		return err
	}
	*p = n
	return nil
}

// clip keeps foreign text in an error message short.
func clip(s string) string {
	const most = 64
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
