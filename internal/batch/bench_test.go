package batch_test

import (
	"strings"
	"testing"
	"time"

	"github.com/batchd/batchd/internal/batch"
)

// BenchmarkResultMarshalJSON encodes the result of an action whose answer is 200 bytes
// of JSON.
func BenchmarkResultMarshalJSON(b *testing.B) {
	r := &batch.Result{
		ID: "17", Index: 17, Outcome: batch.Succeeded, Status: 200, Attempts: 1, StartedAt: time.Unix(1, 0), Duration: time.Millisecond,
		Headers: []batch.Field{{Name: "content-length", Value: "200"}, {Name: "content-type", Value: "application/json"}, {Name: "date", Value: "Thu, 01 Jan 1970 00:00:00 GMT"}},
		Body:    []byte(`{"p":"` + strings.Repeat("x", 192) + `"}`),
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.MarshalJSON(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkReadings reads a path that needs no decoding, and one that does.
func BenchmarkReadings(b *testing.B) {
	for name, path := range map[string]string{"plain": "/v1/items/17/notes", "encoded": "/v1/items/a%20b/notes"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				batch.Readings(path)
			}
		})
	}
}
