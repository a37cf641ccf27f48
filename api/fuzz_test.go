package api

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/intake"
)

// fuzzed decodes a submission, and checks invariants that hold for any input.
func fuzzed(t *testing.T, data []byte, read func(*decoder, *body) (*batch.Spec, error)) {
	t.Helper()
	limits := DefaultLimits()
	limits.MaxActions, limits.MaxActionBody, limits.MaxBody = 10, 1000, 1<<20
	var staged []batch.Action
	d := newDecoder(rules{limits: limits, targets: []string{"a", "b"}, webhooks: true, checkWebhook: func(string) error { return nil }}, func(a *batch.Action) error {
		require.Empty(t, a.Validate())
		require.LessOrEqual(t, int64(len(a.Body)), limits.MaxActionBody)
		for _, h := range a.Headers {
			require.False(t, batch.IsCredential(h.Name))
		}
		staged = append(staged, *a)
		return nil
	})
	b, err := openBody(httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(data)), bodiesOf(limits.MaxBody))
	if err != nil {
		return
	}
	spec, err := read(d, b)
	if err == nil {
		require.NotEmpty(t, staged)
		require.LessOrEqual(t, len(staged), limits.MaxActions)
		require.Contains(t, []string{"a", "b"}, spec.Target)
		require.Positive(t, spec.ExpiresIn)
		require.LessOrEqual(t, spec.ExpiresIn, limits.MaxExpiresIn)
		require.Positive(t, spec.Retention)
		require.LessOrEqual(t, spec.Retention, limits.MaxRetention)
		require.Equal(t, int64(len(data)), b.read, "all of it was read")
		return
	}
	p := problemOf(err, batch.Quotas{}, http.Header{}, "id")
	require.Contains(t, []int{http.StatusBadRequest, http.StatusRequestEntityTooLarge}, p.Status, "%v", err)
	require.LessOrEqual(t, len(p.Errors), intake.MaxFaults)
	encoded, err := json.Marshal(p)
	require.NoError(t, err)
	require.Less(t, len(encoded), 256<<10)
}

func FuzzJSON(f *testing.F) {
	for _, seed := range []string{
		strings.Replace(two, "crm", "a", 1),
		`{"metadata":{"k":"v"},"retention":"48h","expires_in":"1h","webhook":{"url":"https://example.com/"},"actions":[{"id":"a","method":"post","path":"/i?x=1","query":{"d":["1",2,true]},"headers":{"X":["1"],"Y":"2"},"body":{"a":[1]},"timeout":"10s","retry":"safe"}],"target":"b"}`,
		`{"target":"a","actions":[{"method":"GET","path":"/","body_base64":"AP8="},{"method":"GET","path":"/","body_text":"\u00e9"},{"METHOD":1}]}`,
		`{"target":"a","actions":[{"method":"GET","path":"/","body":{"a":1,"a":2}}]}x`,
		"[[[[", `{"actions":{"`, "null", "", "\xff", `{"a":`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		fuzzed(t, data, (*decoder).readJSON)
	})
}

func FuzzNDJSON(f *testing.F) {
	f.Add([]byte("{\"method\":\"GET\",\"path\":\"/\"}\n\n{\"method\":\"PUT\",\"path\":\"/\",\"body\":{}}"), "target=a&metadata.k=v")
	f.Add([]byte("{}x\n[\n{\"method\":"), "expires_in=1h&retention=x&webhook=https://x/&target=%zz")
	f.Fuzz(func(t *testing.T, data []byte, query string) {
		fuzzed(t, data, func(d *decoder, b *body) (*batch.Spec, error) { return d.readNDJSON(b, query) })
	})
}
