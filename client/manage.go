package client

import (
	"context"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// List yields the caller's batches, newest first.
func (c *Client) List(ctx context.Context) iter.Seq2[*Batch, error] {
	type page struct {
		Batches []*Batch `json:"batches"`
		Next    string   `json:"next_cursor"`
	}
	return func(yield func(*Batch, error) bool) {
		query := url.Values{"limit": {strconv.Itoa(100)}}
		for {
			p, err := retryTransient(ctx, c.retryFor, func() (*page, error) {
				return decode[page](ctx, c, call{method: http.MethodGet, query: query})
			})
			if err != nil {
				yield(nil, err)
				return
			}
			for _, batch := range p.Batches {
				if !yield(batch, nil) {
					return
				}
			}
			if p.Next == "" {
				return
			}
			query.Set("cursor", p.Next)
		}
	}
}

// Cancel ends every action that is not begun, and returns the batch as it then
// is. Cancelling twice is cancelling once; a batch that has ended is a 409.
func (c *Client) Cancel(ctx context.Context, id string) (*Batch, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	return retryTransient(ctx, c.retryFor, func() (*Batch, error) {
		return decode[Batch](ctx, c, call{method: http.MethodPost, path: []string{id, "cancel"}})
	})
}

// Retry has the actions with one of the outcomes run again, in a batch that has
// ended: the same batch, the same places. Without outcomes, those that failed,
// errored, expired or were skipped; what is unknown only runs again if it is
// named. It is not repeated, since a second one would find nothing.
func (c *Client) Retry(ctx context.Context, id string, outcomes ...Outcome) (*Batch, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	query := url.Values{}
	if len(outcomes) > 0 {
		names := make([]string, len(outcomes))
		for i, o := range outcomes {
			names[i] = string(o)
		}
		query.Set("outcome", strings.Join(names, ","))
	}
	return decode[Batch](ctx, c, call{method: http.MethodPost, path: []string{id, "retry"}, query: query})
}

// Delete erases the batch and its results. What is in flight is not stopped. It
// is not repeated, since a second one would find nothing.
func (c *Client) Delete(ctx context.Context, id string) error {
	if err := checkID(id); err != nil {
		return err
	}
	resp, err := c.do(ctx, call{method: http.MethodDelete, path: []string{id}})
	if err != nil {
		return err
	}
	return resp.Body.Close()
}
