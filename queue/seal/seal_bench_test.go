package seal

import (
	"fmt"
	"testing"
)

// BenchmarkSealAndOpen seals and opens a value of the usual size, in batches of 100 actions.
func BenchmarkSealAndOpen(b *testing.B) {
	s, err := New(Config{Keys: []Key{RandomKey()}})
	if err != nil {
		b.Fatal(err)
	}
	value := make([]byte, 400)
	ids := make([]string, 1000)
	for i := range ids {
		ids[i] = fmt.Sprintf("0193750c-0000-7000-8000-%012d", i)
	}
	b.ReportAllocs()
	for i := range b.N {
		at := Label{ID: ids[i/100%len(ids)], Kind: "a", Index: i % 100}
		if _, err := s.Open(at, s.Seal(at, value)); err != nil {
			b.Fatal(err)
		}
	}
}
