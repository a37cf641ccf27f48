package api

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

// completed stores a batch of n actions whose results have bodies of the given size.
func (f *fixture) completed(t *testing.T, n, size int) string {
	t.Helper()
	body := `"` + strings.Repeat("x", size) + `"`
	f.store.run = func(int, *batch.Action) *batch.Result { return succeeded(body) }
	return f.created(t, call{body: actions(n)})
}

func TestResultsStreamInOrderFromPagesOfModerateSize(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 100, 100_000} {
		n := min(1500, 15_000_000/(size+1))
		f := setup(t)
		id := f.completed(t, n, size)
		srv := httptest.NewServer(f.Handler())
		defer srv.Close()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL+"/batch/"+id+"/results?from=10", nil)
		require.NoError(t, err)
		r.Header.Set("Accept", mediaNDJSON)
		res, err := srv.Client().Do(r)
		require.NoError(t, err)
		lines := bufio.NewScanner(res.Body)
		lines.Buffer(nil, 1<<20)
		next := 10
		for lines.Scan() {
			var got batch.Result
			require.NoError(t, json.Unmarshal(lines.Bytes(), &got))
			require.Equal(t, next, got.Index)
			require.Len(t, got.Body, size+2)
			next++
		}
		require.NoError(t, lines.Err())
		require.NoError(t, res.Body.Close())
		require.Equal(t, n, next)
		require.LessOrEqual(t, f.store.largest, mostChunk)
		if size == 100_000 {
			require.LessOrEqual(t, f.store.largest*size, 10<<20, "what is held at once")
		}
	}
}

// indexed is a result without its content, which takes long to decode.
type indexed struct {
	Index int `json:"index"`
}

func TestAPageEndsEarlyWhereResultsAreLarge(t *testing.T) {
	t.Parallel()
	f := setup(t)
	id := f.completed(t, 120, 100_000)
	from, seen := 0, 0
	for pages := 1; ; pages++ {
		w := serve(f, call{method: "GET", path: fmt.Sprintf("/batch/%s/results?from=%d", id, from)}.request(t))
		require.Equal(t, http.StatusOK, w.Code)
		require.LessOrEqual(t, w.Body.Len(), pageBytes+firstChunk*110_000)
		var page struct {
			Results []indexed `json:"results"`
			From    int       `json:"from"`
			Next    *int      `json:"next"`
		}
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &page))
		require.Equal(t, from, page.From)
		for _, r := range page.Results {
			require.Equal(t, seen, r.Index)
			seen++
		}
		if page.Next == nil {
			require.Greater(t, pages, 1)
			break
		}
		require.Equal(t, seen, *page.Next)
		from = *page.Next
	}
	require.Equal(t, 120, seen)
}

func TestResultsAreInlineUpToAThousandActions(t *testing.T) {
	t.Parallel()
	for n, inline := range map[int]bool{1000: true, 1001: false} {
		f := setup(t)
		id := f.completed(t, n, 1)
		w := f.do(t, call{method: "GET", path: "/batch/" + id})
		var doc struct {
			Results []*batch.Result `json:"results"`
		}
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &doc))
		if inline {
			require.Len(t, doc.Results, n)
		} else {
			require.Nil(t, doc.Results)
		}
	}
}

func TestADocumentHoldsAsManyResultsAsFit(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.store.run = func(i int, _ *batch.Action) *batch.Result {
		if i < 100 {
			return succeeded("1") // the first ones are small, so the later ones are larger than the server estimates
		}
		return succeeded(`"` + strings.Repeat("x", 300_000) + `"`)
	}
	id := f.created(t, call{body: actions(140)})
	type document struct {
		Results     []indexed `json:"results"`
		ResultsNext int       `json:"results_next"`
		Next        *int      `json:"next"`
	}
	read := func(c call) document {
		w := serve(f, c.request(t)) // validating so many bytes against the description takes a minute
		require.Equal(t, http.StatusOK, w.Code)
		require.LessOrEqual(t, w.Body.Len(), pageBytes+2000)
		var doc document
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &doc))
		return doc
	}
	var next int
	for _, c := range []call{{method: "GET", path: "/batch/" + id}, {method: "POST", path: "/batch", body: actions(140), headers: []string{"Prefer: wait=5"}}} {
		doc := read(c)
		require.Len(t, doc.Results, doc.ResultsNext)
		require.Greater(t, doc.ResultsNext, 120)
		require.Less(t, doc.ResultsNext, 140)
		next = doc.ResultsNext
	}
	page := read(call{method: "GET", path: fmt.Sprintf("/batch/%s/results?from=%d", id, next)})
	require.Len(t, page.Results, 140-next)
	require.Equal(t, next, page.Results[0].Index)
	filtered := read(call{method: "GET", path: "/batch/" + id + "/results?outcome=succeeded"})
	require.Len(t, filtered.Results, next)
	require.Equal(t, next, *filtered.Next)
}

func TestALargeResultIsInAPageOfItsOwn(t *testing.T) {
	t.Parallel()
	f := setup(t)
	id := f.completed(t, 2, pageBytes+1)
	w := serve(f, call{method: "GET", path: "/batch/" + id}.request(t))
	require.Equal(t, http.StatusOK, w.Code)
	var doc struct {
		Results     []*batch.Result `json:"results"`
		ResultsNext int             `json:"results_next"`
	}
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &doc))
	require.Len(t, doc.Results, 1)
	require.Equal(t, 1, doc.ResultsNext)
}

func TestJSONIsServedWithoutWhiteSpaceInAnyForm(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.store.run = func(int, *batch.Action) *batch.Result { return succeeded("\n{\r\n\t\"a b\": 1.10\n}\n") }
	id := f.created(t, call{body: actions(2)})
	for _, c := range []call{
		{method: "GET", path: "/batch/" + id},
		{method: "GET", path: "/batch/" + id + "/results"},
		{method: "GET", path: "/batch/" + id + "/results", headers: []string{"Accept: " + mediaNDJSON}},
		{method: "POST", path: "/batch", body: actions(2), headers: []string{"Prefer: wait=5"}},
	} {
		w := f.do(t, c)
		require.Equal(t, 2, strings.Count(w.Body.String(), `"body":{"a b":1.10},"attempts"`), "%s", w.Body)
	}
}

func TestAnAnswerThatBreaksOffBreaksTheConnection(t *testing.T) {
	t.Parallel()
	for _, accept := range []string{mediaJSON, mediaNDJSON} {
		f := setup(t)
		id := f.completed(t, 1000, 100)
		f.store.mu.Lock()
		f.store.down, f.store.downAfter = &batch.UnavailableError{Err: fmt.Errorf("away")}, 1
		f.store.mu.Unlock()
		srv := httptest.NewServer(f.Handler())
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL+"/batch/"+id+"/results", nil)
		require.NoError(t, err)
		r.Header.Set("Accept", accept)
		res, err := srv.Client().Do(r)
		if err == nil {
			require.Equal(t, http.StatusOK, res.StatusCode)
			_, err = io.Copy(io.Discard, res.Body)
			require.NoError(t, res.Body.Close())
		}
		require.Error(t, err, "half of the results must not pass for all of them")
		srv.Close()
		require.Contains(t, f.log.String(), "answer broken off")
	}
}

func TestAPageThatTheStoreRefusesIsAskedForOnceMore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setup(t)
		id := f.completed(t, 1000, 100)
		f.store.mu.Lock()
		f.store.down, f.store.downAfter = &batch.UnavailableError{Err: fmt.Errorf("away")}, 1
		f.store.mu.Unlock()
		time.AfterFunc(3*pagePause, func() { f.store.setDown(nil) })
		w := f.do(t, call{method: "GET", path: "/batch/" + id + "/results", headers: []string{"Accept: " + mediaNDJSON}})
		require.Equal(t, http.StatusOK, w.Code)
		require.Equal(t, 1000, strings.Count(w.Body.String(), "\n"))

		f.store.setDown(&batch.UnavailableError{Err: fmt.Errorf("away")})
		began := time.Now()
		requireProblem(t, f.do(t, call{method: "GET", path: "/batch/" + id + "/results"}), http.StatusServiceUnavailable)
		require.LessOrEqual(t, time.Since(began), storeBudget)
	})
}

func TestDocumentsAreSentInOnePiece(t *testing.T) {
	t.Parallel()
	f := setup(t)
	id := f.completed(t, 2, 1)
	srv := httptest.NewServer(f.Handler())
	defer srv.Close()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL+"/batch/"+id, nil)
	require.NoError(t, err)
	res, err := srv.Client().Do(r)
	require.NoError(t, err)
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.Equal(t, int64(len(body)), res.ContentLength)
	require.True(t, bytes.HasSuffix(body, []byte("]}")))
}

func TestTheFirstResultsAreReadWithABatchOnlyIfTheyAreSent(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.store.run = func(int, *batch.Action) *batch.Result { return succeeded("1") }
	id := f.created(t, call{body: actions(2*firstInFake + 1)})
	w := f.do(t, call{method: "GET", path: "/batch/" + id})
	require.Equal(t, 1, f.store.firsts)
	var doc struct{ Results []struct{ Index int } }
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &doc))
	require.Len(t, doc.Results, 2*firstInFake+1)
	for i, r := range doc.Results {
		require.Equal(t, i, r.Index)
	}
	f.do(t, call{method: "HEAD", path: "/batch/" + id})
	again := f.do(t, call{method: "GET", path: "/batch/" + id, headers: []string{"If-None-Match: " + w.Header().Get("ETag")}})
	require.Equal(t, http.StatusNotModified, again.Code)
	changed := f.do(t, call{method: "GET", path: "/batch/" + id, headers: []string{`If-None-Match: "other"`}})
	require.Equal(t, w.Body.String(), changed.Body.String())
	require.Equal(t, 1, f.store.firsts)
}
