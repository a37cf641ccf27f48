package main

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// FuzzDocument passes documents on: what comes out is JSON with the same actions, and the flags' options.
func FuzzDocument(f *testing.F) {
	for _, seed := range []string{`{"actions":[{"a":1}],"target":"x"}`, `[{"a":1},{"b":2}]`, `{"actions":7}`, "[", `{"actions":[]} x`, "7", `{"a":1,"a":2}`, "[]\n[]"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, source []byte) {
		var out bytes.Buffer
		for chunk, err := range readDocument("f", bytes.NewReader(source), []member{{"target", "flag"}}, &places{}) {
			if err != nil {
				require.True(t, strings.HasPrefix(err.Error(), "f:"), "%v", err)
				return
			}
			out.Write(chunk)
		}
		require.True(t, json.Valid(out.Bytes()), "%s", out.Bytes())
		var doc struct {
			Target  string            `json:"target"`
			Actions []json.RawMessage `json:"actions"`
		}
		if json.Unmarshal(out.Bytes(), &doc) != nil {
			return // the server names the fault
		}
		require.Equal(t, "flag", doc.Target)
		var bare []json.RawMessage
		if json.Unmarshal(source, &bare) == nil {
			require.Len(t, doc.Actions, len(bare))
		}
	})
}

// FuzzLines reads NDJSON: each line that comes out is an object, and no line is lost.
func FuzzLines(f *testing.F) {
	for _, seed := range []string{"{}\n{\"a\":1}\r\n\n", "{} {}", "x", "\xef\xbb\xbf{}", "{\n}", "[]", "{\"a\":1,\"a\":2}"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, source []byte) {
		n := 0
		for line, err := range readNDJSON("f", bufio.NewReader(bytes.NewReader(source)), &places{}) {
			if err != nil {
				require.True(t, strings.HasPrefix(err.Error(), "f:"), "%v", err)
				return
			}
			require.True(t, json.Valid(line))
			require.Equal(t, byte('{'), line[0])
			n++
		}
		want := 0
		for line := range strings.SplitSeq(string(source), "\n") {
			if strings.Trim(line, " \t\r\n") != "" {
				want++
			}
		}
		require.Equal(t, want, n)
	})
}

// FuzzCSVText compares the text that csv.Reader gets with that of the file: what it reads is the same as
// without the wrapper, but for line ends within quotes.
func FuzzCSVText(f *testing.F) {
	for _, seed := range []string{"a,b\n1,2\n", "a\r\n\"x\r\ny\"\r\n", "a\n\"", "a;b\n", "\"a\"\"b\"\n", "a\x00", "a\n\xff", "\xef\xbb\xbfa\n", "a\r\r\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, source []byte) {
		text, err := io.ReadAll(newCSVText(bufio.NewReader(bytes.NewReader(source)), ','))
		if err != nil {
			require.ErrorAs(t, err, new(*textError))
			return
		}
		if bytes.Contains(source, []byte("\r")) {
			return
		}
		require.Equal(t, string(source), string(text))
		r := csv.NewReader(bytes.NewReader(text))
		if rows, err := r.ReadAll(); err == nil {
			var out bytes.Buffer
			w := csv.NewWriter(&out)
			require.NoError(t, w.WriteAll(rows))
		}
	})
}

func FuzzDays(f *testing.F) {
	for _, seed := range []string{"90d", "12h", "1d12h", "0d", "-1d", "d", "1.5d", "99999999999d", "1h1d", "106751d", "dd"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		d, err := parseDays("--expires-in", text)
		if err != nil {
			return
		}
		require.Positive(t, d)
		require.LessOrEqual(t, d, 100*365*24*time.Hour)
		if plain, err := time.ParseDuration(text); err == nil {
			require.Equal(t, plain, d)
		}
	})
}
