//go:build unix

package dispatch

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

// Do, for owners in turn, each for 16 requests, with connections of their own and with shared
// ones, to a server in the same process over TCP and over TLS. 64 requests are in flight on two
// processors. The CPU counts that of the server, too, and does not depend on other processes.
func BenchmarkOwners(b *testing.B) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	for _, secure := range []bool{false, true} {
		for _, owners := range []int{1, 10, 1000} {
			for _, mode := range []string{batch.ConnectionsShared, batch.ConnectionsPerOwner} {
				b.Run(fmt.Sprintf("tls=%t/owners=%d/%s", secure, owners, mode), func(b *testing.B) {
					srv := httptest.NewUnstartedServer(handler)
					srv.Config.ErrorLog = log.New(io.Discard, "", 0)
					if secure {
						srv.StartTLS()
					} else {
						srv.Start()
					}
					defer srv.Close()
					d := newDispatcher(b, batch.Target{BaseURL: srv.URL, Connections: mode})
					if secure {
						trusting(d, srv)
					}
					names := make([]string, owners)
					for i := range names {
						names[i] = fmt.Sprint("owner", i)
					}
					action := &batch.Action{Method: "POST", Path: "/items", Body: bytes.Repeat([]byte("x"), 200)}
					var next atomic.Int64
					cpu := cpuTime(b)
					b.SetParallelism(32)
					b.RunParallel(func(pb *testing.PB) {
						for pb.Next() {
							owner := names[next.Add(1)/16%int64(owners)]
							require.Equal(b, 200, d.Do(b.Context(), &batch.Request{Target: "crm", Owner: owner, BatchID: "b1", Action: action}).Result.Status)
						}
					})
					b.ReportMetric(float64(cpuTime(b)-cpu)/float64(b.N), "cpu-ns/op")
				})
			}
		}
	}
}

// cpuTime returns the CPU time of this process in ns.
func cpuTime(b *testing.B) int64 {
	b.Helper()
	var usage syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return usage.Utime.Nano() + usage.Stime.Nano()
}
