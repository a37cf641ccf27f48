package config

import (
	"fmt"
	"log/slog"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/batchd/batchd/internal/batch"
)

// Summary returns what is in effect, as the YAML file that would say all of it,
// with secrets left out. A comment tells where each value that is no default
// comes from.
func (c *Config) Summary() string {
	s := summary{places: c.places}
	s.mapping("", "", reflect.ValueOf(c).Elem(), "")
	return s.text.String()
}

// String implements fmt.Stringer with the summary.
func (c *Config) String() string { return c.Summary() }

// Format implements fmt.Formatter, so that no verb prints a secret.
func (c *Config) Format(f fmt.State, _ rune) { writeState(f, c.Summary()) }

// LogValue implements slog.LogValuer with the summary.
func (c *Config) LogValue() slog.Value { return slog.StringValue(c.Summary()) }

type summary struct {
	text   strings.Builder
	places map[string]place
}

// mapping writes the settings of a struct. The first line starts with lead, the
// dash of a list's item or the indent like all others.
func (s *summary) mapping(path, lead string, v reflect.Value, indent string) {
	for _, f := range fieldsOf(v) {
		s.text.WriteString(lead + f.key + ":")
		s.value(join(path, f.key), f.value, indent)
		lead = indent
	}
}

// value writes what comes after the colon of a key.
func (s *summary) value(path string, v reflect.Value, indent string) {
	_, isRate := reflect.TypeAssert[batch.Rate](v)
	switch {
	case v.Kind() == reflect.Pointer && v.IsNil():
		s.text.WriteString("\n")
	case v.Kind() == reflect.Pointer:
		s.value(path, v.Elem(), indent)
	case v.Kind() == reflect.Struct && !isRate:
		s.text.WriteString("\n")
		s.mapping(path, indent+"  ", v, indent+"  ")
	case v.Kind() == reflect.Slice && v.Len() > 0 && v.Type().Elem().Kind() == reflect.Struct:
		s.text.WriteString("\n")
		for i := range v.Len() {
			s.mapping(index(path, i), indent+"  - ", v.Index(i), indent+"    ")
		}
	default:
		s.text.WriteString(" " + written(path, v))
		if p := s.origin(path); p != (place{}) {
			s.text.WriteString("  # " + p.String())
		}
		s.text.WriteString("\n")
	}
}

// origin returns where a value was set, which may be the variable that holds
// all of its list. A default has none.
func (s *summary) origin(path string) place {
	if p, ok := s.places[path]; ok {
		return p
	}
	for outer := parent(path); outer != ""; outer = parent(outer) {
		if p, ok := s.places[outer]; ok && isOverride(p.file) {
			return p
		}
	}
	return place{}
}

// written returns a value as YAML.
func written(path string, v reflect.Value) string {
	switch value := v.Interface().(type) {
	case []int:
		texts := make([]string, len(value))
		for i, n := range value {
			texts[i] = strconv.Itoa(n)
		}
		return "[" + strings.Join(texts, ", ") + "]"
	case int64:
		return ByteSize(value).String()
	}
	if v.Kind() == reflect.Slice {
		if _, refused := emptyList(path); refused {
			return ""
		}
		return "[]"
	}
	text := scalar(v.Interface())
	if strings.HasSuffix(path, ".proxy") {
		text = redactURL(text)
	}
	if v.Kind() == reflect.String && text != "" && (!plainText.MatchString(text) || text == "null") {
		return strconv.Quote(text)
	}
	return text
}

// plainText matches words, paths, URLs and addresses, which are read as text
// without quotes.
var plainText = regexp.MustCompile(`^([A-Za-z/][\w./-]*(:[\w./-]+)*|[\d.]+:\d+)$`)

// scalar returns a value as a variable or flag would set it, without secrets.
func scalar(value any) string {
	switch value := value.(type) {
	case time.Duration:
		return short(value)
	case []SealKey:
		return ""
	default:
		return fmt.Sprint(value)
	}
}

// short writes a duration without its zero minutes and seconds.
func short(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
