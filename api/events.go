package api

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/batchd/batchd/api/dialect"
	"github.com/batchd/batchd/internal/batch"
)

const (
	// eventInterval is the time between two reads of the batch for its streams.
	eventInterval = 250 * time.Millisecond
	// heartbeatInterval is the time between heartbeats, which keep proxies from closing
	// an idle stream.
	heartbeatInterval = 15 * time.Second
	mediaEvents       = "text/event-stream"
)

// events streams the progress of a batch as server-sent events, and closes the stream
// when the batch ends. The id of an event is the entity tag of its document, so a
// client that reconnects does not get a document again that it has.
func (s *Server) events(c *gin.Context) error {
	if _, err := negotiate(c, mediaEvents); err != nil {
		return err
	}
	if _, err := parameters(c); err != nil {
		return err
	}
	id, err := batchID(c)
	if err != nil {
		return err
	}
	leave, err := s.streams.take(payer(c))
	if err != nil {
		return err
	}
	defer leave()
	ctx := c.Request.Context()
	f := s.polls.follow(owner(c), id, eventInterval, 0, 0)
	defer f.leave()
	f.recent()
	var b *batch.Batch
	select {
	case now := <-f.news:
		if now.err != nil {
			return now.err
		}
		b = now.batch
	case <-ctx.Done():
		return nil
	}
	c.Header("Content-Type", mediaEvents)
	c.Header("Cache-Control", "no-store")
	c.Header("X-Accel-Buffering", "no") // otherwise nginx buffers the stream
	c.Status(http.StatusOK)
	s.record(c) // the stream may last for days
	stream := &eventStream{c: c, last: c.GetHeader("Last-Event-ID")}
	if err := stream.send("retry: 2000\n\n"); err != nil {
		return err
	}

	heartbeat := time.NewTicker(heartbeatInterval)
	defer heartbeat.Stop()
	for {
		if b != nil {
			if ended, err := stream.show(b); err != nil || ended {
				return err
			}
		}
		b = nil
		select {
		case now := <-f.news:
			// While the store is unavailable, heartbeats go on.
			if now.err != nil && !errors.As(now.err, new(*batch.UnavailableError)) {
				// The batch was erased. The stream ends, and a client that reconnects
				// gets 404.
				return stream.send(": the batch is gone\n\n")
			}
			if err := principal(c).StillValid(ctx); errors.As(err, new(*dialect.UnauthorizedError)) {
				return stream.send(": the credential is no longer valid\n\n")
			} else if err == nil {
				b = now.batch
			}
		case <-heartbeat.C:
			if err := stream.send(": still here\n\n"); err != nil {
				return err
			}
		case <-s.draining:
			return stream.send(": the server is stopping, come back\n\n")
		case <-ctx.Done():
			return nil
		}
	}
}

type eventStream struct {
	c    *gin.Context
	last string
}

// show sends the batch if it has changed since the last event, and reports whether the
// batch has ended.
func (e *eventStream) show(b *batch.Batch) (ended bool, err error) {
	of := documentFor(e.c, b)
	tag, err := etag(of)
	if err != nil {
		return false, err
	}
	tag = strings.Trim(tag, `"`)
	name := "progress"
	if b.Status.Terminal() {
		name = "end"
	} else if tag == e.last {
		return false, nil
	}
	e.last = tag
	doc, err := encodeJSON(of)
	if err != nil {
		return false, err
	}
	return name == "end", e.send(fmt.Sprintf("id: %s\nevent: %s\ndata: %s\n\n", tag, name, doc))
}

func (e *eventStream) send(text string) error {
	if _, err := e.c.Writer.WriteString(text); err != nil {
		return err
	}
	e.c.Writer.Flush()
	return nil
}
