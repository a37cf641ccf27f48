package api

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/intake"
)

const (
	defaultResultLimit = 1000
	maxResultLimit     = 10_000
	// pageBytes is the most bytes of results in one JSON document, a page or a batch, so
	// that clients can parse it as a whole. A document always has at least one result.
	pageBytes = 8 << 20

	// chunkBytes is the intended size of one read from the store. The size of the
	// results so far determines how many results to ask for.
	chunkBytes = 2 << 20
	firstChunk = 100
	leastChunk = 8
	mostChunk  = 500
	// pieceBytes is the most that is written at one time: a revocation does not take back
	// what is being written.
	pieceBytes = 64 << 10
	// pagePause is the pause before the next request for a page to a store that was
	// unavailable.
	pagePause = 100 * time.Millisecond
)

// results answers with results in the order of the actions, at any time: one page as
// JSON, or all of them as NDJSON.
func (s *Server) results(c *gin.Context) error {
	media, err := negotiate(c, mediaJSON, mediaNDJSON, "application/ndjson", "application/jsonl")
	if err != nil {
		return err
	}
	c.Writer.Header().Add("Vary", "Accept")
	id, err := batchID(c)
	if err != nil {
		return err
	}
	query, given, err := resultQuery(c)
	if err != nil {
		return err
	}
	ctx := c.Request.Context()
	if c.Request.Method == http.MethodHead {
		if _, err := s.cfg.Store.Get(ctx, owner(c), id, 0); err != nil {
			return err
		}
		return writeBytes(c, http.StatusOK, media, nil)
	}
	if media != mediaJSON {
		query.Limit = 0
		if given.Has("limit") {
			return refuse(kindBadParameter, `the query parameter "limit" has no meaning for NDJSON, which streams all results: leave it out`)
		}
		out := s.newResultWriter(c, http.StatusOK, media, nil, "\n")
		defer out.release()
		if _, err := s.eachPage(c, owner(c), id, query, out.write); err != nil {
			return err
		}
		return out.end("")
	}
	out := s.newResultWriter(c, http.StatusOK, media, []byte(`{"results":[`), ",")
	defer out.release()
	out.most = pageBytes
	next, err := s.eachPage(c, owner(c), id, query, out.write)
	if err != nil {
		return err
	}
	if out.cut >= 0 {
		next = out.cut
	}
	tail, err := encodeJSON(pageTail(id, query, next, given))
	if err != nil {
		return err
	}
	return out.end("]," + string(tail[1:]))
}

// resultPage has the fields that follow the results of a page.
type resultPage struct {
	From  int       `json:"from"`
	Next  *int      `json:"next"`
	Links pageLinks `json:"links"`
}

type pageLinks struct {
	Next string `json:"next,omitempty"`
}

func pageTail(id string, query batch.ResultQuery, next int, given url.Values) *resultPage {
	page := &resultPage{From: query.From}
	if next < 0 {
		return page
	}
	page.Next = &next
	onwards := url.Values{"from": {strconv.Itoa(next)}}
	for _, name := range []string{"limit", "outcome"} {
		if given.Has(name) {
			onwards.Set(name, given.Get(name))
		}
	}
	page.Links.Next = location(id) + "/results?" + onwards.Encode()
	return page
}

func resultQuery(c *gin.Context) (batch.ResultQuery, url.Values, error) {
	var q batch.ResultQuery
	given, err := parameters(c, "from", "limit", "outcome")
	if err != nil {
		return q, nil, err
	}
	if q.From, err = integer(given, "from", 0, 0, 1<<31-1); err != nil {
		return q, nil, err
	}
	if q.Limit, err = integer(given, "limit", defaultResultLimit, 1, maxResultLimit); err != nil {
		return q, nil, err
	}
	q.Outcomes, err = outcomesIn(given, batch.Outcomes())
	return q, given, err
}

// outcomesIn returns the outcomes that a request names, or nil if it names none.
func outcomesIn(given url.Values, allowed []batch.Outcome) ([]batch.Outcome, error) {
	if !given.Has("outcome") {
		return nil, nil
	}
	var outcomes []batch.Outcome
	for name := range strings.SplitSeq(given.Get("outcome"), ",") {
		o, err := batch.ParseOutcome(name)
		if err != nil || !slices.Contains(allowed, o) {
			return nil, refuse(kindBadParameter, `the query parameter "outcome" names %q: expected one or more of %s, with commas`, intake.Clip(name), outcomeNames(allowed))
		}
		outcomes = append(outcomes, o)
	}
	return outcomes, nil
}

func outcomeNames(outcomes []batch.Outcome) string {
	var names []string
	for _, o := range outcomes {
		names = append(names, o.String())
	}
	return strings.Join(names, ", ")
}

// eachPage reads results in chunks of about chunkBytes, at most q.Limit of them (0
// means all), until write reports that it has enough. It returns the index from which
// to continue, or -1 at the end of the batch.
func (s *Server) eachPage(c *gin.Context, owner, id string, q batch.ResultQuery, write func([][]byte) (more bool, err error)) (int, error) {
	left, chunk := q.Limit, firstChunk
	for {
		part := q
		part.Limit = chunk
		if q.Limit > 0 {
			part.Limit = min(chunk, left)
		}
		page, err := s.page(c, owner, id, part)
		if err != nil {
			return 0, err
		}
		more, err := write(page.Results)
		if err != nil {
			return 0, err
		}
		left -= len(page.Results)
		if page.Next < 0 || !more || q.Limit > 0 && left == 0 {
			return page.Next, nil
		}
		q.From = page.Next
		if n := len(page.Results); n > 0 {
			chunk = min(max(chunkBytes/max(1, size(page.Results)/n), leastChunk), mostChunk)
		}
	}
}

// page reads one page, if the credential of the request is still valid. The first half
// of an answer may already be sent, so page retries while the store is unavailable,
// until the request's budget is spent. Each page has the whole budget.
func (s *Server) page(c *gin.Context, owner, id string, q batch.ResultQuery) (*batch.ResultPage, error) {
	ctx := c.Request.Context()
	for {
		var page *batch.ResultPage
		err := principal(c).StillValid(ctx)
		if err == nil {
			page, err = s.cfg.Store.Results(ctx, owner, id, q)
		}
		switch {
		case err == nil:
			batch.BudgetOf(ctx).Refill()
			return page, nil
		case !errors.As(err, new(*batch.UnavailableError)) || !batch.BudgetOf(ctx).Take(pagePause):
			return nil, err
		}
		select {
		case <-time.After(pagePause):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// allPages reads the results of a batch, which may already hold the first ones.
func (s *Server) allPages(c *gin.Context, b *batch.Batch, write func([][]byte) (more bool, err error)) error {
	var q batch.ResultQuery
	if b.First != nil {
		if more, err := write(b.First.Results); err != nil || !more || b.First.Next < 0 {
			return err
		}
		q.From = b.First.Next
	}
	_, err := s.eachPage(c, b.Owner, b.ID, q, write)
	return err
}

func size(results [][]byte) int {
	total := 0
	for _, r := range results {
		total += len(r)
	}
	return total
}

// resultWriter streams encoded results as the body of an answer. It writes the header
// with the first chunk, so that an earlier error can still be a problem document.
type resultWriter struct {
	c       *gin.Context
	status  int
	media   string
	head    []byte
	between string
	// most bounds the bytes of the results; 0 means no bound.
	most    int
	written int
	count   int
	cut     int    // the index of the first result without room, or -1
	text    []byte // the chunk being written
	held    *reservation
	// optional: the answer is complete without any result.
	optional bool
}

// newResultWriter returns a writer, which the caller releases.
func (s *Server) newResultWriter(c *gin.Context, status int, media string, head []byte, between string) *resultWriter {
	return &resultWriter{c: c, status: status, media: media, head: head, between: between, cut: -1, held: s.hold(c)}
}

// release gives the memory of the last chunk back.
func (w *resultWriter) release() { w.held.release() }

// reserve reserves the memory of a chunk, of the results and of their text, until the
// client has taken it. Without room, it reports false if the answer can end here, and
// otherwise waits as long as a client may keep the server waiting.
func (w *resultWriter) reserve(results [][]byte) (bool, error) {
	ctx := w.c.Request.Context()
	for since := time.Now(); ; {
		err := w.held.answer(answerTimes * int64(size(results)))
		switch {
		case err == nil:
			return true, nil
		case w.most > 0 && (w.count > 0 || w.optional):
			w.cut = indexOf(results[0])
			return false, nil
		case w.count == 0, time.Since(since) > stallTimeout:
			return false, err
		}
		select {
		case <-time.After(pagePause):
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

// write writes a chunk, and reports whether there is room for another.
func (w *resultWriter) write(results [][]byte) (bool, error) {
	if w.count > 0 { // a long answer does not outlive its credential
		if err := principal(w.c).StillValid(w.c.Request.Context()); err != nil {
			return false, err
		}
	}
	if len(results) > 0 {
		room, err := w.reserve(results)
		if err != nil {
			return false, err
		}
		if !room {
			results = nil
		}
	}
	out := append(slices.Grow(w.text[:0], len(w.head)+size(results)+len(results)), w.begin()...)
	for _, r := range results {
		r = batch.Served(r)
		if w.most > 0 && w.count > 0 && w.written+len(r) > w.most {
			w.cut = indexOf(r)
			break
		}
		w.written += len(r) + len(w.between)
		if w.between == "," && w.count > 0 {
			out = append(out, ',')
		}
		out = append(out, r...)
		if w.between == "\n" {
			out = append(out, '\n')
		}
		w.count++
	}
	w.text = out
	if err := writePieces(w.c, out); err != nil {
		return false, err
	}
	if w.between == "\n" {
		w.c.Writer.Flush() // the client can use the first lines at once
	}
	return w.cut < 0, nil
}

// writePieces writes a part of an answer in pieces, because a client may read it for a
// long time: each piece but the first is sent only if the credential of the request is
// still valid.
func writePieces(c *gin.Context, part []byte) error {
	p := principal(c)
	if len(part) == 0 {
		_, err := c.Writer.Write(part) // which sends the header
		return err
	}
	for piece := range slices.Chunk(part, pieceBytes) {
		if p != nil && c.Writer.Size() > 0 {
			if err := p.StillValid(c.Request.Context()); err != nil {
				return err
			}
		}
		if _, err := c.Writer.Write(piece); err != nil {
			return err
		}
	}
	return nil
}

// indexOf returns the index field of an encoded result.
func indexOf(encoded []byte) int {
	var r struct {
		Index int `json:"index"`
	}
	_ = json.Unmarshal(encoded, &r) // batchd encoded it, so it is valid
	return r.Index
}

// begin writes the header once, and returns the start of the body.
func (w *resultWriter) begin() []byte {
	if w.c.Writer.Written() {
		return nil
	}
	w.c.Header("Content-Type", w.media)
	w.c.Status(w.status)
	return w.head
}

func (w *resultWriter) end(tail string) error {
	_, err := w.c.Writer.WriteString(tail)
	return err
}
