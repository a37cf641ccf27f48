package intake_test

import (
	"encoding/binary"
	"testing"
	"unicode/utf16"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/intake"
)

func inUTF16(order binary.AppendByteOrder, text string) []byte {
	var out []byte
	for _, unit := range utf16.Encode([]rune(text)) {
		out = order.AppendUint16(out, unit)
	}
	return out
}

func inUTF32(order binary.AppendByteOrder, text string) []byte {
	var out []byte
	for _, r := range text {
		out = order.AppendUint32(out, uint32(r)) //nolint:gosec // a rune of a text is not negative
	}
	return out
}

func TestEncodingsThatAreNotUTF8AreNamed(t *testing.T) {
	t.Parallel()
	for _, text := range []string{`{"a":1}`, "id,name\n1,Müller\n", "\ufeff[]", "Имя;Город\nИван;Москва\n", "7", "targets:\n"} {
		for _, order := range []binary.AppendByteOrder{binary.LittleEndian, binary.BigEndian} {
			require.Equal(t, "UTF-16", intake.OtherEncoding(inUTF16(order, text)), "%s %q", order, text)
			require.Equal(t, "UTF-32", intake.OtherEncoding(inUTF32(order, text)), "%s %q", order, text)
		}
		require.Empty(t, intake.OtherEncoding([]byte(text)), text)
	}
	require.Empty(t, intake.OtherEncoding(nil))
	require.Empty(t, intake.OtherEncoding([]byte("[1,\x002]")), "a stray byte")
	require.Empty(t, intake.OtherEncoding([]byte("M\xfcller")), "Latin-1 cannot be told from others")
}

func TestWhatIsWrongWithATextHasItsPlace(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]struct {
		line, column int
		says         string
	}{
		"":                      {},
		"\xef\xbb\xbfa\n":       {},
		"a\nü7,M\xfcller\n":     {2, 6, "the byte 0xfc is not UTF-8"},
		"a\nb\xc3":              {2, 2, "the byte 0xc3 is not UTF-8"},
		"a\n\xed\xa0\x80":       {2, 1, "the byte 0xed is not UTF-8"},
		"a\n\xef\xbb\xbfb":      {2, 1, "byte order mark (U+FEFF)"},
		"\ufeff\ufeffb":         {1, 4, "byte order mark (U+FEFF)"},
		"\xff\xfea\x00":         {1, 1, "in UTF-16"},
		"a\xff\xfe\x00\x00 ...": {1, 2, "0xff"},
	} {
		at, detail := intake.CheckText([]byte(text))
		require.Contains(t, detail, want.says, "%q", text)
		require.Equal(t, want.says == "", detail == "", "%q: %s", text, detail)
		require.Equal(t, intake.TextPlace{Line: want.line, Column: want.column}, at, "%q", text)
	}
}
