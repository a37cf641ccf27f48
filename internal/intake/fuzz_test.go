package intake_test

import (
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/intake"
)

// FuzzDuration compares the form of a duration with time.ParseDuration.
func FuzzDuration(f *testing.F) {
	for _, seed := range []string{"1h", "1.5s", ".5s", "1h1h", "+1s", "-1s", "0", "1", "1d", "99999999999999h", "1µs", "1.s", "", "s", "1e3s"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		_, err := time.ParseDuration(text)
		if err == nil && strings.Trim(text, "+-0") != "" {
			require.True(t, intake.IsDuration(text))
		}
		if intake.IsDuration(text) && len(text) < 12 {
			require.NoError(t, err)
		}
	})
}

// FuzzQuery splits URLs: nothing of the path or the query is lost, and no query changes its meaning.
func FuzzQuery(f *testing.F) {
	for _, seed := range []string{"/a?b=c", "/?", "/a", "/a?b?c", "/a?b c=ä", "/?%zz", "?", "/?a=\"<>\\^`{|}", "/?\x00#"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var a batch.Action
		intake.SetURL(&a, text)
		path, query, found := strings.Cut(text, "?")
		require.Equal(t, path, a.Path)
		require.Equal(t, found && query == "", a.ForceQuery)
		if strings.Contains(query, ";") {
			return
		}
		want, err := url.ParseQuery(query)
		if err == nil {
			got, err := url.ParseQuery(a.Query)
			require.NoError(t, err)
			require.Equal(t, want, got)
		}
		require.Equal(t, text, mustUnescape(intake.EscapeQueryPart(text)))
	})
}

func mustUnescape(text string) string {
	plain, err := url.QueryUnescape(text)
	if err != nil {
		panic(err)
	}
	return plain
}

func FuzzText(f *testing.F) {
	for _, seed := range []string{"a\nb", "\xef\xbb\xbfa", "a\xef\xbb\xbf", "\xff\xfea\x00", "a\x00b\x00", "\xffa", "a\n\n\xc0\x80", "\x00\x00\x00a\x00\x00\x00b"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		at, detail := intake.CheckText(text)
		if detail == "" {
			require.True(t, utf8.Valid(text))
			return
		}
		require.Positive(t, at.Line)
		require.Positive(t, at.Column)
		require.LessOrEqual(t, at.Line, 1+strings.Count(string(text), "\n"))
		require.True(t, utf8.ValidString(detail))
	})
}
