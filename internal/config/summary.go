package config

import (
	"fmt"
	"log/slog"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/batchd/batchd/internal/setting"
	"github.com/batchd/batchd/queue/seal"
)

// Summary returns the effective settings as a YAML file, without secrets. A comment
// gives the origin of each value that is not a default.
func (c *Config) Summary() string {
	s := summary{places: c.places}
	s.mapping("", "", reflect.ValueOf(c).Elem(), "")
	return s.text.String()
}

// String implements fmt.Stringer with the summary.
func (c *Config) String() string { return c.Summary() }

// Format implements fmt.Formatter, so that no verb prints a secret.
func (c *Config) Format(f fmt.State, _ rune) { setting.WriteState(f, c.Summary()) }

// LogValue implements slog.LogValuer with the summary.
func (c *Config) LogValue() slog.Value { return slog.StringValue(c.Summary()) }

type summary struct {
	text   strings.Builder
	places map[string]place
}

// mapping writes the settings of a struct. The first line starts with lead: the dash of
// a list item, or the indent.
func (s *summary) mapping(path, lead string, v reflect.Value, indent string) {
	for _, f := range fieldsOf(v) {
		s.text.WriteString(lead + f.key + ":")
		s.value(join(path, f.key), f.value, indent)
		lead = indent
	}
}

// value writes the text after the colon of a key.
func (s *summary) value(path string, v reflect.Value, indent string) {
	switch {
	case v.Kind() == reflect.Pointer && v.IsNil():
		s.text.WriteString("\n")
	case v.Kind() == reflect.Pointer:
		s.value(path, v.Elem(), indent)
	case isMapping(v.Type()):
		s.text.WriteString("\n")
		s.mapping(path, indent+"  ", v, indent+"  ")
	case v.Kind() == reflect.Slice && v.Len() > 0 && isMapping(v.Type().Elem()):
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

// origin returns where a value was set, which may be the variable that sets its whole
// list. A default has no origin.
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

// written formats a value as YAML.
func written(path string, v reflect.Value) string {
	if value, ok := reflect.TypeAssert[[]int](v); ok {
		texts := make([]string, len(value))
		for i, n := range value {
			texts[i] = strconv.Itoa(n)
		}
		return "[" + strings.Join(texts, ", ") + "]"
	}
	if value, ok := reflect.TypeAssert[[]string](v); ok {
		texts := make([]string, len(value))
		for i, text := range value {
			texts[i] = writtenText(text)
		}
		return "[" + strings.Join(texts, ", ") + "]"
	}
	if isTexts(v.Type()) && v.Len() > 0 {
		return "[" + strings.ReplaceAll(scalar(v.Interface()), ",", ", ") + "]"
	}
	if v.Kind() == reflect.Slice {
		if _, refused := emptyList(path); refused {
			return ""
		}
		return "[]"
	}
	text := scalar(v.Interface())
	if strings.HasSuffix(path, ".proxy") {
		text = setting.RedactURL(text)
	}
	if v.Kind() == reflect.String && text != "" {
		return writtenText(text)
	}
	return text
}

// writtenText formats a text that is not empty as YAML.
func writtenText(text string) string {
	if !plainText.MatchString(text) || text == "null" {
		return strconv.Quote(text)
	}
	return text
}

// plainText matches words, paths, URLs and addresses, which YAML reads as text without
// quotes.
var plainText = regexp.MustCompile(`^([A-Za-z/][\w./-]*(:[\w./-]+)*|[\d.]+:\d+)$`)

// scalar formats a value as for a variable or flag, without secrets.
func scalar(value any) string {
	switch value := value.(type) {
	case time.Duration:
		return setting.Duration(value)
	case int64: // a number of bytes
		return setting.ByteSize(value).String()
	case []seal.Key:
		return ""
	}
	if v := reflect.ValueOf(value); isTexts(v.Type()) {
		texts := make([]string, v.Len())
		for i := range texts {
			texts[i] = v.Index(i).String()
		}
		return strings.Join(texts, ",")
	}
	return fmt.Sprint(value)
}
