package config

import (
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/intake"
	"github.com/batchd/batchd/internal/setting"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/seal"
)

// LogLevel is the lowest level to log.
type LogLevel string

// Choices implements [setting.Choice].
func (LogLevel) Choices() []string { return []string{"debug", "info", "warn", "error"} }

// Level returns slog's level.
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

// LogFormat is the format of log lines.
type LogFormat string

// The log formats.
const (
	LogText LogFormat = "text"
	LogJSON LogFormat = "json"
)

// Choices implements [setting.Choice].
func (LogFormat) Choices() []string { return []string{string(LogText), string(LogJSON)} }

// setText parses text into the setting that p points to. Its errors quote the text,
// unless it is a secret.
func setText(p any, text string) error {
	if choice, ok := p.(setting.Choice); ok {
		return setChoice(reflect.ValueOf(p).Elem(), choice.Choices(), text)
	}
	if v := reflect.ValueOf(p).Elem(); isTexts(v.Type()) {
		return setTexts(v, text)
	}
	switch p := p.(type) {
	case *string:
		*p = text
		return checkNotEmpty(text)
	case *setting.Secret:
		*p = setting.Secret(text)
		return checkNotEmpty(text)
	case *rdb.URL:
		*p = rdb.URL(text)
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
	case *int64: // a number of bytes
		return setSize(p, text)
	case *time.Time:
		at, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return fmt.Errorf("cannot read %q as a time: expected for example 2027-01-31T00:00:00Z", setting.Clip(text))
		}
		*p = at
	case *[]seal.Key:
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

// checkNotEmpty refuses an empty text, for instance from a template without a value: it
// must not be mistaken for the default.
func checkNotEmpty(text string) error {
	if text == "" {
		return errors.New("the value is empty: fill it in, or leave the key out for the default")
	}
	return nil
}

// describe returns the expected value of a setting, for a fault about a node of another
// kind.
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
	case *int64:
		return "a size, for example 1MiB"
	}
	if reflect.TypeOf(p).Elem().Kind() == reflect.Slice {
		return "a list"
	}
	return "text"
}

func setChoice(v reflect.Value, choices []string, text string) error {
	if !slices.Contains(choices, text) {
		return fmt.Errorf("unknown value %q: expected %s", setting.Clip(text), setting.OneOf(choices))
	}
	v.SetString(text)
	return nil
}

// isTexts reports whether a type is a list of texts, such as names or choices. A variable or a flag can set it,
// with commas between the items.
func isTexts(t reflect.Type) bool {
	return t.Kind() == reflect.Slice && (t.Elem() == reflect.TypeFor[string]() || t.Elem().Implements(reflect.TypeFor[setting.Choice]()))
}

func setTexts(v reflect.Value, text string) error {
	if err := checkNotEmpty(text); err != nil {
		return err
	}
	parts := strings.Split(text, ",")
	list := reflect.MakeSlice(v.Type(), len(parts), len(parts))
	for i, part := range parts {
		if err := setText(list.Index(i).Addr().Interface(), strings.TrimSpace(part)); err != nil {
			return err
		}
	}
	v.Set(list)
	return nil
}

func setInt(p *int, text string) error {
	n, err := strconv.Atoi(text)
	switch {
	case errors.Is(err, strconv.ErrRange):
		return fmt.Errorf("the number %q is too large", setting.Clip(text))
	case err != nil:
		return fmt.Errorf("cannot read %q as a whole number: expected for example 100", setting.Clip(text))
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
	return fmt.Errorf("cannot read %q: expected true or false", setting.Clip(text))
}

func setDuration(p *time.Duration, text string) error {
	if _, err := strconv.ParseFloat(text, 64); err == nil {
		return fmt.Errorf("cannot read %q as a duration: its unit is missing: expected for example 30s", setting.Clip(text))
	}
	d, err := time.ParseDuration(text)
	if err != nil && intake.IsDuration(text) {
		return fmt.Errorf("the duration %q is out of range", setting.Clip(text))
	}
	if days, ok := strings.CutSuffix(text, "d"); err != nil && ok {
		if n, err := strconv.Atoi(days); err == nil && n > 0 && n < 10_000 {
			return fmt.Errorf("cannot read %q as a duration: days are no unit here: write %dh", text, 24*n)
		}
	}
	if err != nil {
		return fmt.Errorf("cannot read %q as a duration: expected for example 30s", setting.Clip(text))
	}
	*p = d
	return nil
}

func setSize(p *int64, text string) error {
	n, err := setting.ParseByteSize(text)
	if err != nil {
		return err
	}
	*p = int64(n)
	return nil
}
