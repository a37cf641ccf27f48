package dialect_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/api/dialect"
	"github.com/batchd/batchd/internal/batch"
)

func TestTheBodyOfAnActionIsBounded(t *testing.T) {
	t.Parallel()
	for name, format := range map[string]string{
		"asana":    `{"data":{"actions":[{"method":"post","relative_path":"/a","data":{"x":"%"}}]}}`,
		"requests": `{"requests":[{"method":"POST","path":"/a","body":{"x":"%"}}]}`,
		"syncano":  `{"requests":[{"method":"POST","path":"/v1/instances/i/a/","body":{"x":"%"}}]}`,
		"primaerp": `[{"method":"POST","path":"/a","body":"%"}]`,
	} {
		d, ok := dialect.Named(name)
		require.True(t, ok)
		r := &dialect.Request{
			Header: http.Header{"Authorization": {"x"}}, Query: url.Values{"token": {"x"}}, Params: map[string]string{"instance": "i"},
			MaxActions: 1, MaxActionBody: 100, Sealed: true,
		}
		r.Body = []byte(strings.Replace(format, "%", strings.Repeat("y", 80), 1))
		_, err := d.Decode(r)
		require.NoError(t, err, name)
		r.Body = []byte(strings.Replace(format, "%", strings.Repeat("y", 101), 1))
		_, err = d.Decode(r)
		require.ErrorContains(t, err, "at most 100 are allowed", name)
	}
}

func TestDeepJSONOfATargetLeavesTheAnswerReadable(t *testing.T) {
	t.Parallel()
	media := []batch.Field{{Name: "content-type", Value: "application/json"}}
	for _, d := range dialect.All() {
		for _, depth := range []int{100, 101, 9_998, 10_000, 30_000} {
			for _, headers := range [][]batch.Field{media, nil} {
				body := strings.Repeat("[", depth) + strings.Repeat("]", depth)
				for _, query := range []url.Values{{}, {"opt_pretty": {"true"}}} {
					answer, err := d.Encode(&dialect.Request{Query: query}, &dialect.Submission{IDs: make([]json.RawMessage, 2)}, []batch.Result{
						{Outcome: batch.Succeeded, Status: 200, Headers: headers, Body: []byte(body)},
						{Index: 1, Outcome: batch.Succeeded, Status: 200, Headers: media, Body: []byte(`{"lone":"\ud800"}`)},
					})
					require.NoError(t, err)
					item := firstItem(t, answer)
					encoding, _ := item["body_encoding"].(string)
					content := item["body"]
					if d.Name == "syncano" {
						encoding, _ = item["content_encoding"].(string)
						content = item["content"]
					}
					text, isText := content.(string)
					switch {
					case d.Name == "primaerp":
						require.Equal(t, body, text)
						require.Empty(t, encoding)
					case depth <= batch.MaxDepth:
						require.False(t, isText)
						require.Empty(t, encoding)
					default:
						require.Equal(t, body, text, d.Name)
						require.Equal(t, "text", encoding)
					}
				}
			}
		}
	}
}

func TestEveryDialectSaysWhenAnActionWasSentWhoseFateIsNotKnown(t *testing.T) {
	t.Parallel()
	for _, d := range dialect.All() {
		at := time.Date(2026, 3, 4, 5, 6, 7, 8_000_000, time.FixedZone("x", 3600))
		failure := &batch.Failure{Code: batch.CodeInterrupted, Message: "the worker stopped"}
		for outcome, says := range map[batch.Outcome]bool{batch.Unknown: true, batch.Cancelled: false} {
			one := batch.Result{Outcome: outcome, Attempts: 1, Status: map[bool]int{false: 429}[says], StartedAt: at, Error: failure}
			answer, err := d.Encode(&dialect.Request{}, &dialect.Submission{IDs: make([]json.RawMessage, 2)}, []batch.Result{one, one})
			require.NoError(t, err)
			require.Equal(t, says, strings.Contains(string(answer), "2026-03-04T04:06:07.008Z"), "%s: %s", d.Name, answer)
			require.NotContains(t, string(answer), "429", "what the target answered is no answer to this action")
		}
	}
}

// firstItem returns the first item of the list that an answer is or contains.
func firstItem(t *testing.T, answer []byte) map[string]any {
	t.Helper()
	var whole any
	require.NoError(t, json.Unmarshal(answer, &whole))
	if object, ok := whole.(map[string]any); ok {
		require.Len(t, object, 1)
		for _, list := range object {
			whole = list
		}
	}
	list, ok := whole.([]any)
	require.True(t, ok)
	require.Len(t, list, 2)
	item, ok := list[0].(map[string]any)
	require.True(t, ok)
	return item
}

func TestUnknownNamesAreNoDialects(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", "native", "Asana"} {
		_, ok := dialect.Named(name)
		require.False(t, ok, name)
	}
}

func TestFaultsBeyondTheMostDoNotHideTheAnswer(t *testing.T) {
	t.Parallel()
	for _, d := range dialect.All() {
		body := map[string]string{
			"asana": `{"data":{"actions":[%`, "requests": `{"requests":[%`, "syncano": `{"requests":[%`, "primaerp": `[%`,
		}[d.Name]
		r := &dialect.Request{
			Header: http.Header{"Authorization": {"x"}}, Query: url.Values{"token": {"x"}}, Params: map[string]string{"instance": "i"},
			MaxActions: 1000, MaxActionBody: 100, Sealed: true,
		}
		// Reading ends within an item that already has more faults than the answer
		// lists.
		r.Body = []byte(strings.Replace(body, "%", strings.Repeat(`7,`, 99)+`{"a":1,"b":2,`, 1))
		_, err := d.Decode(r)
		p := problem(t, err)
		require.Len(t, p.Errors, 100)
		require.Positive(t, p.More)
		a, err := d.Refuse(p)
		require.NoError(t, err)
		require.True(t, json.Valid(a.Body))
	}
}
