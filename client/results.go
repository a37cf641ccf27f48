package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strings"
)

// Filter selects results. The zero value selects all.
type Filter struct {
	// Outcomes selects results with these outcomes; empty selects all.
	Outcomes []Outcome
}

func (f *Filter) query() url.Values {
	if len(f.Outcomes) == 0 {
		return nil
	}
	names := make([]string, len(f.Outcomes))
	for i, o := range f.Outcomes {
		names[i] = string(o)
	}
	return url.Values{"outcome": {strings.Join(names, ",")}}
}

// Results streams the results in the order of the actions, with one at a time in
// memory. It can be called while the batch runs: an action that has not ended has the
// outcome [Pending]. An error is the last value that it yields; without an error, it
// has yielded all results.
func (c *Client) Results(ctx context.Context, id string, filter Filter) iter.Seq2[*Result, error] {
	return func(yield func(*Result, error) bool) {
		resp, err := c.open(ctx, id, "results", "application/x-ndjson", filter.query())
		if err != nil {
			yield(nil, err)
			return
		}
		defer resp.Body.Close()
		dec := json.NewDecoder(resp.Body)
		for n := 0; ; n++ {
			result := new(Result)
			err := dec.Decode(result)
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				yield(nil, fmt.Errorf("read the results of batch %s after %d of them: %w", id, n, err))
				return
			}
			if !yield(result, nil) {
				return
			}
		}
	}
}

// open opens a streamed answer about a batch.
func (c *Client) open(ctx context.Context, id, what, accept string, query url.Values) (*http.Response, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	return retryTransient(ctx, c.retryFor, func() (*http.Response, error) {
		return c.do(ctx, call{
			method: http.MethodGet, path: []string{id, what}, query: query,
			header: http.Header{"Accept": {accept + ", application/problem+json"}},
		})
	})
}
