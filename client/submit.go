package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"time"
	"unicode/utf8"
)

// Options are the options of a submission. The zero value is usable.
type Options struct {
	// Target names the configured target to call. It may be empty if the server has
	// only one.
	Target string
	// WebhookURL receives a webhook when the batch has ended. See [VerifyWebhook].
	WebhookURL string
	// WebhookSecret signs the webhook of this batch instead of the owner's secret: "whsec_"
	// and the base64 of 24 to 64 bytes. Only Submit can send it. Defaults to none.
	WebhookSecret string
	// ExpiresIn is the time from acceptance to the deadline, after which no action
	// begins. Defaults to the server's setting.
	ExpiresIn time.Duration
	// Retention is how long the server keeps results after the end. Defaults to the
	// server's setting.
	Retention time.Duration
	// Metadata comes back with the batch, unchanged.
	Metadata map[string]string

	// IdempotencyKey makes a repeated submission return the batch of the first one. Use
	// a key that is unique for each job, or [NewIdempotencyKey]. Submit defaults to a
	// new key for each call, the other methods to none.
	IdempotencyKey string
	// Compression is the compression of the upload. Defaults to none.
	Compression Compression
	// Wait makes the server wait for the end of the batch before it answers, for at
	// most this time in whole seconds. A small batch then comes back with its results.
	Wait time.Duration
}

// NewIdempotencyKey returns a new random key.
func NewIdempotencyKey() string { return rand.Text() }

// Submit submits actions that are in memory.
func (c *Client) Submit(ctx context.Context, actions []Action, opts Options) (*Batch, error) {
	if opts.IdempotencyKey == "" {
		opts.IdempotencyKey = NewIdempotencyKey()
	}
	if err := opts.check(); err != nil {
		return nil, err
	}
	doc := submission{
		Target: opts.Target, Actions: actions, Metadata: opts.Metadata,
		ExpiresIn: seconds(opts.ExpiresIn), Retention: seconds(opts.Retention),
	}
	if doc.Actions == nil {
		doc.Actions = []Action{} // an empty list, which the server refuses
	}
	if opts.WebhookURL != "" {
		doc.Webhook = &webhookDocument{URL: opts.WebhookURL, Secret: opts.WebhookSecret}
	}
	body, err := encodeJSON(&doc)
	if err != nil {
		return nil, fmt.Errorf("encode the batch: %w", err)
	}
	return c.upload(ctx, "application/json", nil, bytes.NewReader(body), opts)
}

// SubmitStream submits actions as the iterator yields them, with one at a time in
// memory. An error of the iterator ends the upload, leaves nothing on the server, and
// is returned. The iterator runs only once, and not after SubmitStream has returned, so
// a failed upload is not repeated.
func (c *Client) SubmitStream(ctx context.Context, actions iter.Seq2[Action, error], opts Options) (*Batch, error) {
	lines := newActionReader(actions)
	defer lines.Close()
	return c.upload(ctx, "application/x-ndjson", opts.query(), lines, opts)
}

// SubmitNDJSON submits actions from a reader, one JSON object per line. It does not
// read r after it has returned. If r is an [io.Seeker] and there is an idempotency key,
// SubmitNDJSON repeats a failed upload from the start of r.
func (c *Client) SubmitNDJSON(ctx context.Context, r io.Reader, opts Options) (*Batch, error) {
	return c.upload(ctx, "application/x-ndjson", opts.query(), r, opts)
}

// SubmitJSON submits a whole document from a reader, unchanged: an object with
// "actions" and the other fields of a batch. Of opts, only options that are not fields
// of the document may be set. It reads r as [Client.SubmitNDJSON] does.
func (c *Client) SubmitJSON(ctx context.Context, r io.Reader, opts Options) (*Batch, error) {
	if len(opts.query()) > 0 {
		return nil, errors.New("these options are fields of the document: set target, webhook, expires_in, retention and metadata there")
	}
	return c.upload(ctx, "application/json", nil, r, opts)
}

type submission struct {
	Target    string            `json:"target,omitempty"`
	Actions   []Action          `json:"actions"`
	Webhook   *webhookDocument  `json:"webhook,omitempty"`
	ExpiresIn string            `json:"expires_in,omitempty"`
	Retention string            `json:"retention,omitempty"`
	Metadata  map[string]string `json:"metadata,omitempty"`
}

type webhookDocument struct {
	URL    string `json:"url"`
	Secret string `json:"secret,omitempty"`
}

func seconds(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return d.String()
}

// check refuses options that are not UTF-8.
func (o *Options) check() error {
	named := [][2]string{{"target", o.Target}, {"webhook", o.WebhookURL}, {"idempotency key", o.IdempotencyKey}}
	for key, value := range o.Metadata {
		named = append(named, [2]string{fmt.Sprintf("metadata %q", key), key + value})
	}
	for _, text := range named {
		if !utf8.ValidString(text[1]) {
			return fmt.Errorf("the %s is not UTF-8: convert it before it is submitted", text[0])
		}
	}
	return nil
}

// query returns the options of an NDJSON submission, whose body has no place for them.
func (o *Options) query() url.Values {
	q := url.Values{}
	set := func(name, value string) {
		if value != "" {
			q.Set(name, value)
		}
	}
	set("target", o.Target)
	set("webhook", o.WebhookURL)
	set("expires_in", seconds(o.ExpiresIn))
	set("retention", seconds(o.Retention))
	for name, value := range o.Metadata {
		q.Set("metadata."+name, value)
	}
	return q
}

// upload sends body, repeats the call if that is allowed, and reads the answer.
func (c *Client) upload(ctx context.Context, contentType string, query url.Values, body io.Reader, opts Options) (*Batch, error) {
	if err := opts.check(); err != nil {
		return nil, err
	}
	header := http.Header{"Content-Type": {contentType}}
	if opts.IdempotencyKey != "" {
		header.Set("Idempotency-Key", opts.IdempotencyKey)
	}
	if opts.Wait > 0 {
		header["Prefer"] = preferWait(opts.Wait)["Prefer"]
	}
	if err := opts.Compression.announce(header); err != nil {
		return nil, err
	}
	send := func() (*Batch, error) {
		upload, err := newUpload(body, opts.Compression)
		if err != nil {
			return nil, err
		}
		batch, err := decode[Batch](ctx, c, call{method: http.MethodPost, query: query, header: header, body: upload})
		// A transport may still use the body after the answer. Close ends that.
		_ = upload.Close()
		if cause := upload.cause(); cause != nil && ctx.Err() == nil {
			return nil, cause
		}
		return batch, err
	}
	seeker, rewindable := body.(io.Seeker)
	if opts.IdempotencyKey == "" || !rewindable {
		return send()
	}
	first := true
	return retryTransient(ctx, c.retryFor, func() (*Batch, error) {
		if !first {
			if _, err := seeker.Seek(0, io.SeekStart); err != nil {
				return nil, fmt.Errorf("go back to the start of the upload: %w", err)
			}
		}
		first = false
		return send()
	})
}

// actionReader reads an iterator of actions as NDJSON.
type actionReader struct {
	next func() (Action, error, bool)
	stop func()
	line bytes.Buffer
	n    int
}

func newActionReader(actions iter.Seq2[Action, error]) *actionReader {
	next, stop := iter.Pull2(actions)
	return &actionReader{next: next, stop: stop}
}

// Read implements [io.Reader].
func (r *actionReader) Read(p []byte) (int, error) {
	if r.line.Len() == 0 {
		action, err, ok := r.next()
		switch {
		case !ok:
			return 0, io.EOF
		case err != nil:
			return 0, err
		}
		r.line.Reset()
		enc := json.NewEncoder(&r.line)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(action); err != nil {
			return 0, fmt.Errorf("encode action %d: %w", r.n, err)
		}
		r.n++
	}
	return r.line.Read(p)
}

// Close releases the iterator.
func (r *actionReader) Close() { r.stop() }
