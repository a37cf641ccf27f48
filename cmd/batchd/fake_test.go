package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// fakeServer answers as the native API does, with data that a test prepares.
type fakeServer struct {
	*httptest.Server

	mu sync.Mutex
	// submit answers a submission itself if it returns true. Otherwise the fake server
	// accepts the batch.
	submit func(attempt int, w http.ResponseWriter) bool
	// documents are the answers to successive requests for the batch; the last one
	// repeats.
	documents []string
	results   string
	// list is the list of batches, comma-separated; empty means two of them.
	list string

	submissions []received
	requests    []string
}

// received is a submission that the server received.
type received struct {
	query, key, contentType, encoding, prefer, authorization string
	body                                                     string
}

// actions lists the actions of the submission, one per line.
func (r received) actions(t *testing.T) []string {
	t.Helper()
	var lines []string
	if r.contentType == "application/x-ndjson" {
		for line := range strings.Lines(r.body) {
			lines = append(lines, strings.TrimSuffix(line, "\n"))
		}
		return lines
	}
	var doc struct{ Actions []json.RawMessage }
	if err := json.Unmarshal([]byte(r.body), &doc); err != nil {
		t.Fatalf("the submission is no document: %v: %s", err, r.body)
	}
	for _, a := range doc.Actions {
		lines = append(lines, string(a))
	}
	return lines
}

func newFakeServer(t *testing.T) *fakeServer {
	t.Helper()
	f := &fakeServer{documents: []string{docCompleted}}
	f.Server = httptest.NewServer(f)
	t.Cleanup(f.Close)
	return f
}

const (
	docQueued    = `{"id":"b1","status":"queued","counts":{"total":3,"pending":3},"created_at":"2026-01-02T03:04:05Z"}`
	docRunning   = `{"id":"b1","status":"running","target":"crm","counts":{"total":3,"pending":2,"succeeded":1},"metadata":{"k":"v"},"created_at":"2026-01-02T03:04:05Z","started_at":"2026-01-02T03:04:06Z","expires_at":"2026-01-03T03:04:05Z","links":{"self":"/batch/b1"}}`
	docCompleted = `{"id":"b1","status":"completed","counts":{"total":3,"succeeded":3},"created_at":"2026-01-02T03:04:05Z","ended_at":"2026-01-02T03:04:06.5Z","results":[]}`
	docFailed    = `{"id":"b1","status":"completed","counts":{"total":3,"succeeded":1,"failed":1,"errored":1},"created_at":"2026-01-02T03:04:05Z","ended_at":"2026-01-02T03:05:06Z"}`
)

// ServeHTTP implements [http.Handler].
func (f *fakeServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(bufio.NewReader(r.Body))
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests = append(f.requests, r.Method+" "+r.URL.String())
	switch {
	case r.Method == http.MethodPost && r.URL.Path == "/batch":
		if err != nil {
			return // the upload broke off: nothing was submitted
		}
		f.submissions = append(f.submissions, received{
			query: r.URL.RawQuery, key: r.Header.Get("Idempotency-Key"), contentType: r.Header.Get("Content-Type"),
			encoding: r.Header.Get("Content-Encoding"), prefer: r.Header.Get("Prefer"),
			authorization: r.Header.Get("Authorization"), body: string(body),
		})
		if f.submit != nil && f.submit(len(f.submissions), w) {
			return
		}
		w.WriteHeader(http.StatusAccepted)
		fmt.Fprint(w, docQueued)
	case r.URL.Path == "/batch/b1/results":
		fmt.Fprint(w, f.results)
	case r.URL.Path == "/batch/b1/cancel":
		fmt.Fprint(w, `{"id":"b1","status":"cancelling","counts":{"total":3,"pending":1,"cancelled":2}}`)
	case r.URL.Path == "/batch":
		list := f.list
		if list == "" {
			list = docRunning + "," + docFailed
		}
		fmt.Fprintf(w, `{"batches":[%s]}`, list)
	case r.URL.Path == "/batch/b1":
		fmt.Fprint(w, f.documents[0])
		if len(f.documents) > 1 {
			f.documents = f.documents[1:]
		}
	default:
		refuse(w, http.StatusNotFound, `{"detail":"there is no such batch"}`)
	}
}

func refuse(w http.ResponseWriter, status int, problem string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	fmt.Fprint(w, problem)
}
