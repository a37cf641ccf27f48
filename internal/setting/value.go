package setting

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Choice is a setting that accepts only a few texts. Its type is a string.
type Choice interface {
	// Choices returns the texts, with the default first or in a natural order.
	Choices() []string
}

// ByteSize is a number of bytes, written as "512KiB", "10MB" or a plain number.
type ByteSize int64

var sizeUnits = []struct {
	name  string
	bytes int64
}{
	// Longest and largest first: parsing uses the first suffix that matches, formatting
	// the first unit that divides the size.
	{"GiB", 1 << 30},
	{"MiB", 1 << 20},
	{"KiB", 1 << 10},
	{"GB", 1e9},
	{"MB", 1e6},
	{"KB", 1e3},
	{"B", 1},
}

// ParseByteSize parses a size: digits, and B, KB, MB, GB, KiB, MiB or GiB.
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
		return 0, fmt.Errorf("cannot read %q as a size: it is out of range", Clip(text))
	}
	if err != nil || digits[0] == '+' || digits[0] == '-' {
		return 0, fmt.Errorf("cannot read %q as a size: expected for example 1MiB, 10MB or a number of bytes", Clip(text))
	}
	return ByteSize(n * unit), nil
}

// String formats the size with the largest binary unit that divides it.
func (s ByteSize) String() string {
	for _, u := range sizeUnits[:3] {
		if s != 0 && int64(s)%u.bytes == 0 {
			return strconv.FormatInt(int64(s)/u.bytes, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// Duration formats a duration without zero minutes and seconds.
func Duration(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// OneOf lists texts as in a sentence: "a, b or c".
func OneOf(texts []string) string {
	if len(texts) == 1 {
		return texts[0]
	}
	last := len(texts) - 1
	return strings.Join(texts[:last], ", ") + " or " + texts[last]
}

// Clip keeps foreign text in an error message short.
func Clip(s string) string {
	const most = 64
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
