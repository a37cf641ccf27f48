package client

import (
	"context"
	"fmt"
	"iter"
	"net/http"
	"time"
)

// longestWait is the longest wait that one call asks the server for. It is shorter than
// the usual timeouts of proxies.
const longestWait = 20 * time.Second

// Get returns the batch in its present state. With a wait above zero, in whole seconds,
// the server answers when the batch has ended or when the time is over.
func (c *Client) Get(ctx context.Context, id string, wait time.Duration) (*Batch, error) {
	return retryTransient(ctx, c.retryFor, func() (*Batch, error) { return c.get(ctx, id, wait) })
}

func (c *Client) get(ctx context.Context, id string, wait time.Duration) (*Batch, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	return decode[Batch](ctx, c, call{method: http.MethodGet, path: []string{id}, header: preferWait(wait)})
}

// Wait returns the batch once it has ended. It repeats each request while the server is
// unavailable, for as long as [WithRetryFor] allows.
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

// Watch yields the batch at once, then at the given interval, and a last time when it
// has ended. An error is also the last value. The interval is rounded up to whole
// seconds.
func (c *Client) Watch(ctx context.Context, id string, every time.Duration) iter.Seq2[*Batch, error] {
	return func(yield func(*Batch, error) bool) {
		var wait time.Duration // the first request does not wait
		for {
			asked := time.Now()
			batch, err := c.Get(ctx, id, wait)
			if !yield(batch, err) || err != nil || batch.Status.Terminal() {
				return
			}
			// A proxy may drop the Prefer header. Without this pause, the loop would
			// spin.
			if early := time.Second - time.Since(asked); wait > 0 && early > 0 && !sleep(ctx, min(early, every)) {
				yield(nil, fmt.Errorf("wait for batch %s: %w", id, context.Cause(ctx)))
				return
			}
			wait = min(max(every, time.Second), longestWait)
		}
	}
}
