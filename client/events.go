package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
)

// Update is one server-sent event about a batch.
type Update struct {
	// ID is the event's id, or empty.
	ID string
	// Type is the event's type, such as "progress". Defaults to "message".
	Type string
	// Batch is the batch at the time of the event.
	Batch *Batch
}

// maxEventLine is the longest line that is accepted in an event stream.
const maxEventLine = 16 << 20

// Events streams the progress of a batch as server-sent events until the batch has
// ended. It does not reconnect: an error is the last value that it yields. Use
// [Client.Watch] to reconnect.
func (c *Client) Events(ctx context.Context, id string) iter.Seq2[*Update, error] {
	return func(yield func(*Update, error) bool) {
		resp, err := c.open(ctx, id, "events", "text/event-stream", nil)
		if err != nil {
			yield(nil, err)
			return
		}
		defer resp.Body.Close()
		ended := false
		for update, err := range readEvents(resp.Body) {
			if err != nil {
				yield(nil, fmt.Errorf("read the events of batch %s: %w", id, err))
				return
			}
			ended = update.Batch.Status.Terminal()
			if !yield(update, nil) || ended {
				return
			}
		}
		if !ended {
			yield(nil, fmt.Errorf("read the events of batch %s: %w", id, io.ErrUnexpectedEOF))
		}
	}
}

// readEvents parses an event stream (WHATWG HTML, 9.2.6). As the specification
// requires, it drops an incomplete event at the end of the stream.
func readEvents(stream io.Reader) iter.Seq2[*Update, error] {
	return func(yield func(*Update, error) bool) {
		lines := bufio.NewScanner(stream)
		lines.Buffer(nil, maxEventLine)
		var data []byte
		update := Update{Type: "message"}
		for lines.Scan() {
			line := lines.Bytes()
			if len(line) == 0 {
				if data != nil {
					done := update
					done.Batch = new(Batch)
					if err := json.Unmarshal(data, done.Batch); err != nil {
						yield(nil, fmt.Errorf("decode event %q: %w", update.Type, err))
						return
					}
					if !yield(&done, nil) {
						return
					}
				}
				data, update.Type = nil, "message"
				continue
			}
			name, value, _ := bytes.Cut(line, []byte{':'}) // a comment has an empty name
			value = bytes.TrimPrefix(value, []byte{' '})
			switch string(name) {
			case "event":
				update.Type = string(value)
			case "id":
				update.ID = string(value)
			case "data":
				if data != nil {
					data = append(data, '\n')
				}
				data = append(data, value...)
			}
		}
		if err := lines.Err(); err != nil {
			yield(nil, err)
		}
	}
}
