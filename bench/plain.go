package main

import (
	"bytes"
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// plain is the limit: a fan-out to the target from this process, without storage.
type plain struct {
	http     *http.Client
	target   string
	inFlight int
}

func startPlain(_ context.Context, w *world, load load) (contender, error) {
	return &plain{http: newHTTPClient(load.inFlight, nil), target: w.targetURL, inFlight: load.inFlight}, nil
}

func (p *plain) run(ctx context.Context, _ string, bodies [][]byte) (timing, []result, error) {
	began := time.Now()
	results := make([]result, len(bodies))
	inParallel(p.inFlight, len(bodies), func(i int) {
		results[i].index = i
		status, answer, err := exchange(ctx, p.http, p.target, bytes.NewReader(bodies[i]))
		if err != nil {
			results[i].err = err.Error()
		}
		results[i].status, results[i].body = status, answer
	})
	took := time.Since(began)
	return timing{ended: took, read: took}, results, nil
}

// inParallel calls do for 0 to n-1 from a number of goroutines.
func inParallel(goroutines, n int, do func(i int)) {
	var next atomic.Int64
	var all sync.WaitGroup
	for range min(goroutines, n) {
		all.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				do(i)
			}
		})
	}
	all.Wait()
}
