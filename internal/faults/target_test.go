package faults

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// visit is one request that reached the target.
type visit struct {
	id, worker, method string
	began              time.Time
	ended              time.Time // zero while it is held
	refused            bool      // it was answered with an error status
}

// target is the API for the actions. It records a request before it does anything else,
// like an API on which the request has taken effect.
type target struct {
	url string

	mu     sync.Mutex
	visits []*visit
	byID   map[string][]*visit
	delay  time.Duration
	gate   func(*visit) <-chan struct{} // holds a request until the channel is closed; nil does not
	after  func(*visit)                 // is called when an answer is written
	status func(v *visit, nth int) int  // the status of an action's nth visit, from 1; nil is 200
}

func startTarget(t *testing.T) *target {
	t.Helper()
	x := &target{byID: make(map[string][]*visit), delay: 20 * time.Millisecond}
	x.url = listen(t, "127.0.0.1:0", x)
	return x
}

// largeMark is in the ids of actions whose answers have largeBytes, more than a batch has room for before a worker asks
// the quotas.
const (
	largeMark  = ".large-"
	largeBytes = 80 << 10
)

// ServeHTTP takes /<worker>/do/<id> and answers with the id.
func (x *target) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body) // a body that breaks off is an error of the sender, but still a request
	worker, id, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/do/")
	v := &visit{id: id, worker: worker, method: r.Method, began: time.Now()}
	x.mu.Lock()
	x.visits = append(x.visits, v)
	x.byID[id] = append(x.byID[id], v)
	delay, after, status := x.delay, x.after, http.StatusOK
	if x.status != nil {
		status = x.status(v, len(x.byID[id]))
		v.refused = status >= http.StatusBadRequest
	}
	var held <-chan struct{}
	if x.gate != nil {
		held = x.gate(v)
	}
	x.mu.Unlock()
	if held != nil {
		<-held
	} else {
		time.Sleep(delay)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	padding := ""
	if strings.Contains(id, largeMark) {
		padding = strings.Repeat("x", largeBytes)
	}
	fmt.Fprintf(w, `{"id":%q,"padding":%q}`, id, padding)
	if f, ok := w.(http.Flusher); ok && after != nil {
		f.Flush()
	}
	x.mu.Lock()
	v.ended = time.Now()
	x.mu.Unlock()
	if after != nil {
		after(v)
	}
}

// set changes the behaviour of the target.
func (x *target) set(change func(x *target)) {
	x.mu.Lock()
	defer x.mu.Unlock()
	change(x)
}

// of returns the visits for an action.
func (x *target) of(id string) []visit {
	x.mu.Lock()
	defer x.mu.Unlock()
	all := make([]visit, len(x.byID[id]))
	for i, v := range x.byID[id] {
		all[i] = *v
	}
	return all
}

// took counts the visits for an action that the target did not refuse.
func (x *target) took(id string) int {
	n := 0
	for _, v := range x.of(id) {
		if !v.refused {
			n++
		}
	}
	return n
}

// count counts the visits that match.
func (x *target) count(match func(v *visit) bool) int {
	x.mu.Lock()
	defer x.mu.Unlock()
	n := 0
	for _, v := range x.visits {
		if match(v) {
			n++
		}
	}
	return n
}

// seen counts the visits of a batch, whose ids all begin with its tag.
func (x *target) seen(tag string) int {
	return x.count(func(v *visit) bool { return strings.HasPrefix(v.id, tag+"-") })
}

// flying counts the requests of a worker without an answer.
func (x *target) flying(worker string) int {
	return x.count(func(v *visit) bool { return v.worker == worker && v.ended.IsZero() })
}

// idIn returns the id in the target's answer.
func idIn(body []byte) string {
	var doc struct {
		ID string `json:"id"`
	}
	_ = json.Unmarshal(body, &doc) // an answer from elsewhere has no id
	return doc.ID
}
