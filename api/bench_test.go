package api

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

// BenchmarkDecode reads submissions without storing them. It shows the cost of one
// action, and that this cost does not grow with the batch.
func BenchmarkDecode(b *testing.B) {
	limits := Config{}.withDefaults().Limits
	line := `{"method":"POST","path":"/items","headers":{"X-Trace":"abc"},"body":{"name":"` + strings.Repeat("x", 180) + `"}}`
	read := map[string]func(*decoder, *body) (*batch.Spec, error){
		"json":   (*decoder).readJSON,
		"ndjson": func(d *decoder, b *body) (*batch.Spec, error) { return d.readNDJSON(b, "") },
	}
	for n, name := range map[int]string{10: "10", 10_000: "10000"} {
		for format, text := range map[string]string{
			"json":   `{"actions":[` + strings.TrimSuffix(strings.Repeat(line+",", n), ",") + `]}`,
			"ndjson": strings.Repeat(line+"\n", n),
		} {
			b.Run(format+"/"+name, func(b *testing.B) {
				b.ReportAllocs()
				b.SetBytes(int64(len(text)))
				for b.Loop() {
					r := httptest.NewRequest(http.MethodPost, "/batch", io.NopCloser(strings.NewReader(text)))
					body, err := openBody(r, bodiesOf(limits.MaxBody))
					require.NoError(b, err)
					d := newDecoder(rules{limits: limits, targets: []string{"a"}}, func(*batch.Action) error { return nil })
					_, err = read[format](d, body)
					require.NoError(b, err)
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/action")
			})
		}
	}
}
