package batch

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestResultsAreWrittenAsTheyAreServed(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 4, 5, 6, 7, 8_900_000, time.FixedZone("x", 3600))
	contentType := func(v string) []Field { return []Field{{"content-type", v}} }
	for name, c := range map[string]struct {
		result Result
		want   string
	}{
		"a JSON body stands as it came": {
			Result{ID: "a", Outcome: Succeeded, Status: 201, Headers: contentType("application/json; charset=utf-8"), Body: []byte("{\n \"n\": 1.10, \"s\": \"<&>\"}"), Attempts: 1, StartedAt: at, Duration: 12 * time.Millisecond},
			`{"id":"a","index":0,"outcome":"succeeded","status":201,"headers":{"content-type":"application/json; charset=utf-8"},"body":{"n":1.10,"s":"<&>"},"attempts":1,"started_at":"2026-03-04T04:06:07.008Z","duration_ms":12}`,
		},
		"a problem is JSON too": {
			Result{ID: "1", Index: 1, Outcome: Failed, Status: 404, Headers: contentType("application/problem+json"), Body: []byte(`null`), Attempts: 2},
			`{"id":"1","index":1,"outcome":"failed","status":404,"headers":{"content-type":"application/problem+json"},"body":null,"attempts":2}`,
		},
		"broken JSON is text": {
			Result{ID: "1", Index: 1, Outcome: Succeeded, Status: 200, Headers: contentType("application/json"), Body: []byte(`{"a"`), Attempts: 1},
			`{"id":"1","index":1,"outcome":"succeeded","status":200,"headers":{"content-type":"application/json"},"body_text":"{\"a\"","attempts":1}`,
		},
		"cut JSON is text although it may parse": {
			Result{ID: "1", Index: 1, Outcome: Succeeded, Status: 200, Headers: contentType("application/json"), Body: []byte(`12`), Truncated: true, Attempts: 1},
			`{"id":"1","index":1,"outcome":"succeeded","status":200,"headers":{"content-type":"application/json"},"body_text":"12","truncated":true,"attempts":1}`,
		},
		"JSON that is nested too deep for many readers is text": {
			Result{ID: "1", Outcome: Succeeded, Status: 200, Headers: contentType("application/json"), Body: []byte(strings.Repeat("[", 101) + strings.Repeat("]", 101)), Attempts: 1},
			`{"id":"1","index":0,"outcome":"succeeded","status":200,"headers":{"content-type":"application/json"},"body_text":"` + strings.Repeat("[", 101) + strings.Repeat("]", 101) + `","attempts":1}`,
		},
		"brackets in a string are no nesting": {
			Result{ID: "1", Outcome: Succeeded, Status: 200, Headers: contentType("application/json"), Body: []byte(`"\"` + strings.Repeat("[", 200) + `"`), Attempts: 1},
			`{"id":"1","index":0,"outcome":"succeeded","status":200,"headers":{"content-type":"application/json"},"body":"\"` + strings.Repeat("[", 200) + `","attempts":1}`,
		},
		"bytes are base64": {
			Result{ID: "1", Index: 1, Outcome: Succeeded, Status: 200, Body: []byte{0xff, 0}, Attempts: 1},
			`{"id":"1","index":1,"outcome":"succeeded","status":200,"body_base64":"/wA=","attempts":1}`,
		},
		"no answer": {
			Result{ID: "x", Index: 7, Outcome: Errored, Error: &Failure{CodeTimeout, "no answer within 10s"}, Attempts: 3},
			`{"id":"x","index":7,"outcome":"errored","error":{"code":"timeout","message":"no answer within 10s"},"attempts":3}`,
		},
		"a header that came twice": {
			Result{ID: "x", Outcome: Succeeded, Status: 204, Headers: []Field{{"set-cookie", "a"}, {"vary", "v"}, {"set-cookie", "b"}}, Attempts: 1},
			`{"id":"x","index":0,"outcome":"succeeded","status":204,"headers":{"set-cookie":["a","b"],"vary":"v"},"attempts":1}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := c.result.MarshalJSON()
			require.NoError(t, err)
			require.Equal(t, c.want, string(got))
			require.NotContains(t, string(got), "\n")
			var back Result
			require.NoError(t, json.Unmarshal(got, &back))
			again, err := back.MarshalJSON()
			require.NoError(t, err)
			require.Equal(t, c.want, string(again))
		})
	}
}

func TestAnyResultSurvivesItsEncoding(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		want := Result{
			ID: rapid.StringMatching(`[a-z]{0,9}`).Draw(r, "id"), Index: rapid.IntRange(0, 1e6).Draw(r, "index"), Outcome: Succeeded,
			Status: rapid.IntRange(100, 599).Draw(r, "status"), Attempts: 1,
			Body: rapid.SliceOf(rapid.Byte()).Draw(r, "body"),
		}
		encoded, err := want.MarshalJSON()
		require.NoError(r, err)
		require.False(r, strings.ContainsAny(string(encoded), "\n\r"), "one line")
		var got Result
		require.NoError(r, got.UnmarshalJSON(encoded))
		require.Equal(r, string(want.Body), string(got.Body))
		require.Equal(r, want.ID, got.ID)
		require.Equal(r, want.Index, got.Index)
	})
}

func TestTheStoreKeepsTheWhiteSpaceThatTheNativeAPILeavesOut(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		space := rapid.StringMatching(`[ \t\r\n]{0,3}`)
		body := space.Draw(r, "before") + `{` + space.Draw(r, "a") + `"a b\"\\"` + space.Draw(r, "b") + `:[1.10,` + space.Draw(r, "c") + `" \t<\u2028"]}` + space.Draw(r, "after")
		want := Result{
			ID: `,"body": `, Outcome: Succeeded, Status: 200, Body: []byte(body), Attempts: 1,
			Headers: []Field{{"content-type", "application/json"}, {"body", "1 2"}},
		}
		encoded := want.Encode()
		var got Result
		require.NoError(r, got.UnmarshalJSON(encoded))
		require.Equal(r, body, string(got.Body))
		served, err := want.MarshalJSON()
		require.NoError(r, err)
		require.Equal(r, string(served), string(Served(encoded)))
		require.Contains(r, string(served), `,"body":{"a b\"\\":[1.10," \t<\u2028"]},"attempts":1`)
		require.True(r, json.Valid(served))
	})
}

func TestAHistoryCountsTheAttemptsOfEachRound(t *testing.T) {
	t.Parallel()
	first := Result{Outcome: Failed, Status: 500, Attempts: 3}
	second := Result{Outcome: Errored, Attempts: 5, History: first.Past()}
	third := Result{Outcome: Pending, Attempts: 6, History: second.Past()}
	require.Equal(t, []Past{{Outcome: Failed, Status: 500, Attempts: 3}, {Outcome: Errored, Attempts: 2}}, second.Past())
	require.Equal(t, second.Past(), third.Past(), "what has not ended is nothing to look back on")
}

func TestAnUnknownResultSaysWhenItWasSent(t *testing.T) {
	t.Parallel()
	r := Result{ID: "a", Outcome: Unknown, Attempts: 1, StartedAt: time.Date(2026, 3, 4, 5, 6, 7, 8_000_000, time.UTC)}
	encoded, err := r.MarshalJSON()
	require.NoError(t, err)
	require.JSONEq(t, `{"id":"a","index":0,"outcome":"unknown","attempts":1,"started_at":"2026-03-04T05:06:07.008Z","duration_ms":0,"sent_at":"2026-03-04T05:06:07.008Z"}`, string(encoded))
	r.Outcome = Failed
	encoded, err = r.MarshalJSON()
	require.NoError(t, err)
	require.NotContains(t, string(encoded), "sent_at")
}

func TestEveryOutcomeIsHandled(t *testing.T) {
	t.Parallel()
	var c Counts
	for i, o := range Outcomes() {
		require.NotContains(t, o.String(), "(")
		parsed, err := ParseOutcome(o.String())
		require.NoError(t, err)
		require.Equal(t, o, parsed)
		*c.Of(o) = i + 1
		require.Equal(t, o != Pending, o.Final())
	}
	require.Equal(t, 1+2+3+4+5+6+7+8, c.Sum())
	encoded, err := json.Marshal(c)
	require.NoError(t, err)
	require.JSONEq(t, `{"total":0,"pending":1,"succeeded":2,"failed":3,"errored":4,"unknown":5,"cancelled":6,"expired":7,"skipped":8}`, string(encoded))
	_, err = ParseOutcome("done")
	require.Error(t, err)
	terminal := 0
	for _, s := range Statuses() {
		if s.Terminal() {
			terminal++
		}
	}
	require.Equal(t, 3, terminal)
}

func TestLanes(t *testing.T) {
	t.Parallel()
	require.Equal(t, Interactive, LaneFor(10, false))
	require.Equal(t, Interactive, LaneFor(InteractiveActions, false))
	require.Equal(t, Bulk, LaneFor(InteractiveActions+1, false))
	require.Equal(t, Interactive, LaneFor(InteractiveActions+1, true))
	require.Equal(t, Bulk, LaneFor(100_000, true), "who waits for that much does not overtake")
}

func TestHeadersThatCameMoreThanOnceAreLists(t *testing.T) {
	t.Parallel()
	fields := []Field{{"b", "1"}, {"a", "2"}, {"b", "3"}}
	joined := func(f []Field) []string { return strings.Split(string(appendFields(nil, f)), ":") } // in their order
	require.Equal(t, []string{`{"b"`, `["1","3"],"a"`, `"2"}`}, joined(fields))
	require.Equal(t, []string{`{"b"`, `"1","a"`, `"2"}`}, joined(fields[:2]))
	for i := range 20 {
		fields = append(fields, Field{fmt.Sprint("x", i), "-"})
	}
	require.Contains(t, string(appendFields(nil, fields)), `{"b":["1","3"],"a":"2","x0":"-","x1":"-",`)
}

func TestABodyThatWasNotDecodedIsNeitherJSONNorText(t *testing.T) {
	t.Parallel()
	r := &Result{
		ID: "a", Outcome: Failed, Status: 429, Headers: []Field{{"content-type", "application/json"}, {"content-encoding", "gzip"}},
		Body: []byte(`{"a":1}`), Undecoded: true, Attempts: 1,
	}
	encoded, err := json.Marshal(r)
	require.NoError(t, err)
	require.Contains(t, string(encoded), `"body_base64":"eyJhIjoxfQ==","body_undecoded":true`)
	require.NotContains(t, string(encoded), `"body":`)
	var decoded Result
	require.NoError(t, json.Unmarshal(encoded, &decoded))
	require.Equal(t, *r, decoded)
}
