package dispatch

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

// A target that answers in every way that HTTP/1.1 has, often before it has read the
// request, to attempts that are often broken off: each still gets its own answer, is
// sent once at most, and is said to be unsent only if it is.
func TestNoAnswerGoesAstray(t *testing.T) {
	t.Parallel()
	const exchanges = 1500
	var arrived [exchanges + 1]atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.URL.Query().Get("id")
		var n int
		_, _ = fmt.Sscan(id, &n)
		arrived[n].Add(1)
		if rand.IntN(8) == 0 {
			w.WriteHeader(http.StatusRequestEntityTooLarge)
			_, _ = io.WriteString(w, id)
			return // the body is not read
		}
		_, _ = io.Copy(io.Discard, r.Body)
		switch rand.IntN(9) {
		case 0:
			w.WriteHeader(http.StatusEarlyHints)
		case 1:
			w.WriteHeader(http.StatusNoContent)
			return
		case 2:
			w.Header().Set("Trailer", "X-T")
			defer w.Header().Set("X-T", "1")
		case 3:
			w.Header().Set("Connection", "close")
		case 4:
			time.Sleep(time.Duration(rand.IntN(3000)) * time.Microsecond)
		case 5: // ends with the connection
			conn, _, _ := w.(http.Hijacker).Hijack()
			_, _ = fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\n\r\n%s", id)
			_ = conn.Close()
			return
		}
		_, _ = io.WriteString(w, id)
		if rand.IntN(3) == 0 {
			w.(http.Flusher).Flush()
		}
		_, _ = io.WriteString(w, strings.Repeat(".", rand.IntN(20000)))
	}))
	defer srv.Close()
	d := newDispatcher(t, batch.Target{BaseURL: srv.URL, Concurrency: 6, MaxResponseBody: 9000, Timeout: 10 * time.Second})
	var next atomic.Int32
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			for n := next.Add(1); n <= exchanges; n = next.Add(1) {
				ctx, cancel := context.WithCancel(t.Context())
				if rand.IntN(3) == 0 {
					time.AfterFunc(time.Duration(rand.IntN(2000))*time.Microsecond, cancel)
				}
				a := &batch.Action{
					Method: []string{"POST", "PATCH", "DELETE", "HEAD"}[rand.IntN(4)], Path: "/", Query: fmt.Sprint("id=", n), Retry: batch.RetryNever,
					Body: make([]byte, []int{0, 10, 5000, 16 << 10, 16<<10 + 1, 300_000}[rand.IntN(6)]),
				}
				resp := d.Do(ctx, &batch.Request{Target: "crm", Action: a})
				cancel()
				if resp.Unsent && arrived[n].Load() > 0 {
					t.Errorf("%d is said to be unsent", n)
				}
				if s := resp.Result.Status; s > 0 && s != http.StatusNoContent && a.Method != http.MethodHead {
					if got := strings.TrimRight(string(resp.Result.Body), "."); got != fmt.Sprint(n) {
						t.Errorf("%d got %.20q", n, got)
					}
				}
			}
		})
	}
	wg.Wait()
	for n := range arrived {
		require.LessOrEqual(t, arrived[n].Load(), int32(1), n)
	}
}
