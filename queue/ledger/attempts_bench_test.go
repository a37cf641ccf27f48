package ledger

import (
	"fmt"
	"testing"
	"time"

	"github.com/batchd/batchd/internal/batch"
)

// What remembering an attempt costs, 64 of which are in flight, in batches of 1,000.
func BenchmarkAttempts(b *testing.B) {
	m := newAttempts()
	ids, tokens, result := make([]string, b.N/1000+1), make([]string, b.N), make([]byte, 300)
	for i := range ids {
		ids[i] = fmt.Sprintf("01a2277a-5fcd-7d5c-881b-%012d", i)
	}
	for i := range tokens {
		tokens[i] = fmt.Sprintf("3BDYD5NFOZUR%d", i)
	}
	begun := batch.Begun{Worker: "w1", Attempt: 1, FirstAt: time.Now(), StartedAt: time.Now()}
	const flying = 64
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N + flying {
		if i < b.N {
			id := ids[i/1000]
			a := m.begin(id, i%1000, tokens[i])
			_ = m.before(a)
			begun.Token = batch.Token(tokens[i])
			m.begun(a, &begun, "")
		}
		if j := i - flying; j >= 0 {
			m.end(ids[j/1000], j%1000, tokens[j], "S", result, nil)
		}
	}
}
