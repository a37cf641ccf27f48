package batch

import (
	"encoding/json"
	"net/url"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

func FuzzRate(f *testing.F) {
	for _, seed := range []string{"1500/min", "10/s", "100/15m", "1/1.5s", "+1/s", "01/s", "1/24h", "1/day", "/s", "1/", "9999999999999999999/s", "1/0h60m"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ParseRate(text)
		if err != nil {
			return
		}
		require.Positive(t, r.N)
		require.True(t, r.Per >= time.Second && r.Per <= 24*time.Hour)
		require.Regexp(t, `^[0-9]`, text)
		again, err := ParseRate(r.String())
		require.NoError(t, err)
		require.Equal(t, r, again)
	})
}

func FuzzBaseURL(f *testing.F) {
	for _, seed := range []string{
		"https://api.example.com/v1/", "http://[::1]:80", "http://h/a%2fb", "http://h/%2e%2e/x", "http://u:p@h", "http://h?x", "http://h#", "HTTP://H", "http://h:0", "http://h/ä b", "//h", "http:h", "http://h/..", "http://h\\@e/",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		u, err := ParseBaseURL(raw)
		if err != nil {
			return
		}
		require.Contains(t, []string{"http", "https"}, u.Scheme)
		require.NotEmpty(t, u.Hostname())
		require.Nil(t, u.User)
		require.Empty(t, u.RawQuery+u.Fragment)
		again, err := ParseBaseURL(u.String())
		require.NoError(t, err, "%q", u.String())
		require.Equal(t, u.String(), again.String())
		plain, err := url.Parse(u.String())
		require.NoError(t, err)
		require.Equal(t, u.Host, plain.Host)
	})
}

// FuzzResultJSON encodes and decodes results: what the store and the API write means the same.
func FuzzResultJSON(f *testing.F) {
	f.Add("id", 3, "application/json", []byte(` {"a": [1, 2]}`), "X-A", "v", 1, false, false)
	f.Add("", 0, "text/plain", []byte("\xff\x00"), "", "", 2, true, true)
	f.Add("<a>\u2028", 9, "application/json", []byte(`"\ud800"`), "Set-Cookie", "a", 3, false, false)
	f.Add("", 0, "application/json", []byte("1 "), "Content-Type", "application/json", 4, false, false)
	f.Fuzz(func(t *testing.T, id string, index int, media string, body []byte, name, value string, outcome int, truncated, undecoded bool) {
		for _, text := range []string{id, media, name, value} {
			if !utf8.ValidString(text) {
				return // requests and answers are read so that all text is UTF-8
			}
		}
		all := Outcomes()
		r := Result{
			ID: id, Index: index, Outcome: all[uint(outcome)%uint(len(all))], Status: 200, Headers: []Field{{"Content-Type", media}, {"X-" + name, value}, {"X-" + name, media}},
			Body: body, Truncated: truncated, Undecoded: undecoded, Attempts: 2, StartedAt: time.UnixMilli(1).UTC(), Duration: time.Second,
		}
		stored := r.Encode()
		require.True(t, json.Valid(stored), "%s", stored)
		var back Result
		require.NoError(t, back.UnmarshalJSON(stored))
		if len(body) == 0 {
			r.Body = back.Body
			require.Empty(t, back.Body)
		}
		require.Equal(t, r, back)
		served, err := r.MarshalJSON()
		require.NoError(t, err)
		require.Equal(t, Served(stored), served)
		require.NoError(t, json.Unmarshal(served, &back))
		if !json.Valid(body) {
			require.Equal(t, r, back)
		}
	})
}

// FuzzStoredResults decodes any bytes as a result. What can be read can be written again.
func FuzzStoredResults(f *testing.F) {
	for _, seed := range []string{
		`{"id":"a","index":1,"outcome":"failed","status":500,"headers":{"A":"b","C":["d","e"]},"body_base64":"AP8=","attempts":1}`, ` {"id":"","index":0,"outcome":"succeeded","body":  [1 ] ,"attempts":0}`,
		`{"headers":[]}`, `{"headers":{"a":7}}`, `{"outcome":"x"}`, `[]`, `{"body":null}`, `{"duration_ms":-1,"started_at":"2026-01-02T03:04:05Z"}`, `{"headers":"x","outcome":"failed"}`, ` {"x":{"body":1},"body":2}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var r Result
		if r.UnmarshalJSON(data) != nil {
			return
		}
		var again Result
		require.NoError(t, again.UnmarshalJSON(r.Encode()), "%s", r.Encode())
		require.Equal(t, r.Outcome, again.Outcome)
		require.Equal(t, r.Index, again.Index)
		require.Len(t, again.Headers, len(r.Headers))
	})
}
