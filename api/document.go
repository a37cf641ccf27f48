package api

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/batchd/batchd/internal/batch"
)

// inlineResults is the largest batch whose document includes its results, if
// [pageBytes] allows.
const inlineResults = 1000

// document is the representation of a batch in the API, with its fields in the
// documented order.
type document struct {
	ID        string            `json:"id"`
	Status    batch.Status      `json:"status"`
	Counts    batch.Counts      `json:"counts"`
	CreatedAt timestamp         `json:"created_at"`
	StartedAt timestamp         `json:"started_at,omitzero"`
	EndedAt   timestamp         `json:"ended_at,omitzero"`
	ExpiresAt timestamp         `json:"expires_at,omitzero"`
	Target    string            `json:"target,omitempty"`
	Owner     string            `json:"owner,omitempty"` // for admins
	Metadata  map[string]string `json:"metadata,omitempty"`
	Links     links             `json:"links"`
}

type links struct {
	Self    string `json:"self"`
	Results string `json:"results"`
	Events  string `json:"events"`
	Cancel  string `json:"cancel"`
	Webhook string `json:"webhook,omitempty"`
}

// timestamp is written in UTC with milliseconds (RFC 3339).
type timestamp struct{ time.Time }

// MarshalJSON implements [json.Marshaler].
func (t timestamp) MarshalJSON() ([]byte, error) {
	return []byte(t.UTC().Format(`"2006-01-02T15:04:05.000Z"`)), nil
}

func location(id string) string { return "/batch/" + id }

// documentFor returns the representation of a batch for the principal of a request. Admins see the owner.
func documentFor(c *gin.Context, b *batch.Batch) *document {
	doc := newDocument(b)
	if isAdmin(c) {
		doc.Owner = b.Owner
	}
	return doc
}

func newDocument(b *batch.Batch) *document {
	self := location(b.ID)
	doc := &document{
		ID: b.ID, Status: b.Status, Counts: b.Counts, Target: b.Target, Metadata: b.Metadata,
		CreatedAt: timestamp{b.CreatedAt}, StartedAt: timestamp{b.StartedAt}, EndedAt: timestamp{b.EndedAt}, ExpiresAt: timestamp{b.ExpiresAt},
		Links: links{Self: self, Results: self + "/results", Events: self + "/events", Cancel: self + "/cancel"},
	}
	if b.WebhookURL != "" {
		doc.Links.Webhook = self + "/webhook"
	}
	return doc
}

// hasResults reports whether the batch's document includes its results.
func hasResults(b *batch.Batch) bool {
	return b.Status.Terminal() && b.Counts.Total <= inlineResults
}

// writeBatch answers with the document of a batch, and streams its results if the
// document includes them.
func (s *Server) writeBatch(c *gin.Context, status int, b *batch.Batch) error {
	doc, err := encodeJSON(documentFor(c, b))
	if err != nil {
		return err
	}
	h := c.Writer.Header()
	if !b.Status.Terminal() {
		setRetryAfter(h, time.Second)
	}
	if !hasResults(b) || c.Request.Method == http.MethodHead {
		return writeBytes(c, status, mediaJSON, doc)
	}
	s.note(c).results = true
	out := s.newResultWriter(c, status, mediaJSON, append(doc[:len(doc)-1], `,"results":[`...), ",")
	defer out.release()
	out.most, out.optional = pageBytes, true
	if err := s.allPages(c, b, out.write); err != nil {
		return err
	}
	if out.cut >= 0 {
		return out.end(`],"results_next":` + strconv.Itoa(out.cut) + "}")
	}
	return out.end("]}")
}

// etag returns a strong entity tag for a document. It does not need the
// results: a terminal batch has all of them, and the rest of the document changes
// whenever the batch leaves or enters a terminal state.
func etag(of *document) (string, error) {
	doc, err := encodeJSON(of)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(doc)
	return `"` + hex.EncodeToString(sum[:12]) + `"`, nil
}

// matches evaluates If-None-Match (RFC 9110 §13.1.2).
func matches(h http.Header, tag string) bool {
	for _, line := range h.Values("If-None-Match") {
		for item := range strings.SplitSeq(line, ",") {
			item = strings.TrimSpace(item)
			if item == "*" || strings.TrimPrefix(item, "W/") == tag {
				return true
			}
		}
	}
	return false
}

// encodeJSON writes JSON on one line, without HTML escaping.
func encodeJSON(v any) ([]byte, error) {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("encode the answer: %w", err)
	}
	return bytes.TrimSuffix(out.Bytes(), []byte{'\n'}), nil
}

func writeJSON(c *gin.Context, status int, media string, v any) error {
	data, err := encodeJSON(v)
	if err != nil {
		return err
	}
	return writeBytes(c, status, media, data)
}

func writeBytes(c *gin.Context, status int, media string, data []byte) error {
	c.Header("Content-Type", media)
	c.Status(status)
	return writePieces(c, data)
}
