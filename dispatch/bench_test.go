package dispatch

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

// Do, for POSTs of 200 bytes to an echo server in the same process, whose
// allocations count too.
func BenchmarkDo(b *testing.B) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.Copy(w, r.Body)
	}))
	defer srv.Close()
	d := newDispatcher(b, batch.Target{BaseURL: srv.URL})
	r := &batch.Request{Target: "crm", BatchID: "b1", Action: &batch.Action{
		Method: "POST", Path: "/items", Body: bytes.Repeat([]byte("x"), 200),
		Headers: []batch.Field{{Name: "content-type", Value: "application/json"}},
	}}
	b.ReportAllocs()
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			require.Equal(b, 200, d.Do(b.Context(), r).Result.Status)
		}
	})
}
