package client

import (
	"context"
	"fmt"
	"iter"
	"net/http"
	"time"
)

// longestWait is how long one call asks the server to wait. It is short enough
// for the proxies on the way.
const longestWait = 20 * time.Second

// Get returns the batch as it is. With a wait above zero, in whole seconds, the
// server answers when the batch has ended or when the time is over.
func (c *Client) Get(ctx context.Context, id string, wait time.Duration) (*Batch, error) {
	return retryTransient(ctx, c.retryFor, func() (*Batch, error) { return c.get(ctx, id, wait) })
}

func (c *Client) get(ctx context.Context, id string, wait time.Duration) (*Batch, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	return decode[Batch](ctx, c, call{method: http.MethodGet, path: []string{id}, header: preferWait(wait)})
}

// Wait returns the batch once it has ended. It tries again while the server is unavailable,
// each time for as long as [WithRetryFor] allows.
func (c *Client) Wait(ctx context.Context, id string) (*Batch, error) {
	var last *Batch
	for batch, err := range c.Watch(ctx, id, longestWait) {
		if err != nil {
			return nil, err
		}
		last = batch
	}
	return last, nil
}

// Watch yields the batch at once, then about every so often, and when it has
// ended, which is the last time. An error is the last, too. Every is rounded up
// to whole seconds.
func (c *Client) Watch(ctx context.Context, id string, every time.Duration) iter.Seq2[*Batch, error] {
	return func(yield func(*Batch, error) bool) {
		var wait time.Duration // the first look does not wait
		for {
			asked := time.Now()
			batch, err := c.Get(ctx, id, wait)
			if !yield(batch, err) || err != nil || batch.Status.Terminal() {
				return
			}
			// A proxy on the way may drop the preference, and then this would spin.
			if early := time.Second - time.Since(asked); wait > 0 && early > 0 && !sleep(ctx, min(early, every)) {
				yield(nil, fmt.Errorf("wait for batch %s: %w", id, context.Cause(ctx)))
				return
			}
			wait = min(max(every, time.Second), longestWait)
		}
	}
}
