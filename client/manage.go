package client

import (
	"context"
	"iter"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// List yields the caller's batches, newest first. With the scope admin, they are those of all owners. A batch that the
// server cannot read has [Batch.Error].
func (c *Client) List(ctx context.Context) iter.Seq2[*Batch, error] {
	return c.list(ctx, url.Values{})
}

// ListOwner yields the batches of an owner, newest first. It needs the scope admin. The owner of a key's batches
// is "key:" and the owner of the key.
func (c *Client) ListOwner(ctx context.Context, owner string) iter.Seq2[*Batch, error] {
	return c.list(ctx, url.Values{"owner": {owner}})
}

func (c *Client) list(ctx context.Context, query url.Values) iter.Seq2[*Batch, error] {
	type page struct {
		Batches []*Batch `json:"batches"`
		Next    string   `json:"next_cursor"`
	}
	return func(yield func(*Batch, error) bool) {
		query := maps.Clone(query) // the caller may range over the batches twice
		query.Set("limit", strconv.Itoa(100))
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

// Cancel ends every action that has not begun, and returns the batch. Cancelling a
// batch twice is no error; cancelling a batch that has ended is a 409.
func (c *Client) Cancel(ctx context.Context, id string) (*Batch, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	return retryTransient(ctx, c.retryFor, func() (*Batch, error) {
		return decode[Batch](ctx, c, call{method: http.MethodPost, path: []string{id, "cancel"}})
	})
}

// Retry runs the actions with one of the outcomes again, in a batch that has ended. The
// batch and the indexes stay the same. Without outcomes it runs the actions that
// failed, errored, expired or were skipped again; unknown ones run again only if the
// caller names that outcome. The client does not repeat the call, because a second one
// would find no such actions.
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

// Delete erases the batch and its results. It does not stop actions in flight. The
// client does not repeat the call, because a second one would find no batch.
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
