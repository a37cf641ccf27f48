package dialect_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/api/dialect"
	"github.com/batchd/batchd/internal/batch"
)

// FuzzDecode gives every dialect the same bytes. The result must be valid actions or a
// refusal, and the dialect must be able to answer both.
func FuzzDecode(f *testing.F) {
	requests, err := filepath.Glob("testdata/*/*.request")
	require.NoError(f, err)
	for _, file := range requests {
		source, err := os.ReadFile(file)
		require.NoError(f, err)
		_, body, _ := strings.Cut(string(source), "\n\n")
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, d := range dialect.All() {
			r := &dialect.Request{
				Header: http.Header{"Authorization": {"Bearer x"}, "X-Custom": {"1"}}, Query: url.Values{"token": {"x"}},
				Params: map[string]string{"instance": "i"}, Body: body, MaxActions: 20, MaxActionBody: 1 << 10, Sealed: true,
			}
			s, err := d.Decode(r)
			if err != nil {
				a, err := d.Refuse(problem(t, err))
				require.NoError(t, err)
				require.Equal(t, http.StatusBadRequest, a.Status)
				require.True(t, json.Valid(a.Body))
				continue
			}
			require.NotEmpty(t, s.Actions)
			require.LessOrEqual(t, len(s.Actions), r.MaxActions)
			results := make([]batch.Result, len(s.Actions))
			for i := range s.Actions {
				a := &s.Actions[i]
				require.Empty(t, a.Validate())
				require.LessOrEqual(t, len(a.Body), int(r.MaxActionBody))
				results[i] = batch.Result{Outcome: batch.Succeeded, Status: 200, Body: a.Body, Headers: a.Headers}
			}
			answer, err := d.Encode(r, s, results)
			require.NoError(t, err)
			require.True(t, json.Valid(answer), "%s", answer)
		}
	})
}
