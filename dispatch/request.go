package dispatch

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/batchd/batchd/internal/batch"
)

const userAgent = "User-Agent"

// bodyAlong is the longest body that counts as written together with its headers.
const bodyAlong = 16 << 10

// newRequest builds the request of a valid action, without its body.
func (d *Dispatcher) newRequest(t *target, r *batch.Request) *http.Request {
	a := r.Action
	return &http.Request{
		Method: a.Method,
		URL:    t.url(a),
		Proto:  "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Host:   t.base.Host,
		Header: d.requestHeader(t, r),
	}
}

// url appends the action's path to the base URL. It is assembled from fields:
// resolving the path as a reference would let it name another host.
func (t *target) url(a *batch.Action) *url.URL {
	raw := t.basePath + batch.EscapePath(a.Path)
	path, err := url.PathUnescape(raw)
	if err != nil {
		path = raw // not reached: escapes were checked with the action
	}
	return &url.URL{Scheme: t.base.Scheme, Host: t.base.Host, Path: path, RawPath: raw, RawQuery: a.Query, ForceQuery: a.ForceQuery}
}

// setBody sets the body such that the transport cannot send the request twice.
//
// On a kept-alive connection that breaks, net/http sends a request again by
// itself if it considers it idempotent: by its method (GET, HEAD, OPTIONS), or by a
// header Idempotency-Key, whether or not the target knows that header. headerKey
// hides the header from net/http. The method matters only for an action that
// must never be repeated: it gets a body that can't be rewound, even if the body is
// empty. (An empty body that is not nil costs a goroutine, and an empty DATA
// frame over HTTP/2, so other reads have none and may be replayed.)
//
// All other requests have GetBody: only with it net/http sends a POST over another
// connection if the first one turns out to be dead before a byte was written.
//
// For a body longer than bodyAlong it returns a counter of the bytes that the transport has not
// read yet.
func setBody(req *http.Request, a *batch.Action) (unwritten *atomic.Int64) {
	once := a.Retry == batch.RetryNever && isRead(a.Method)
	if len(a.Body) == 0 && !once {
		return nil
	}
	req.ContentLength = int64(len(a.Body))
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(a.Body)), nil }
	if len(a.Body) > bodyAlong {
		unwritten = new(atomic.Int64)
		open = func() (io.ReadCloser, error) {
			unwritten.Store(int64(len(a.Body)))
			return &longBody{unwritten: unwritten, r: bytes.NewReader(a.Body)}, nil
		}
	}
	req.Body, _ = open()
	if !once {
		req.GetBody = open
	}
	return unwritten
}

// longBody is the body of a request that is written in parts.
type longBody struct {
	r         *bytes.Reader
	unwritten *atomic.Int64
}

// Read implements io.Reader.
func (b *longBody) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	b.unwritten.Add(-int64(n))
	return n, err //nolint:wrapcheck // io.EOF
}

// Close implements io.Closer.
func (b *longBody) Close() error { return nil }

// isRead reports whether net/http considers requests with a method replayable.
func isRead(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return true
	}
	return false
}

func (d *Dispatcher) requestHeader(t *target, r *batch.Request) http.Header {
	a := r.Action
	header := make(http.Header, len(a.Headers)+3)
	for _, h := range a.Headers {
		key := http.CanonicalHeaderKey(h.Name)
		if disposition(key) != passed {
			continue // no Connection header names others: batch.Target.ForbidsHeader refuses that
		}
		key = headerKey(key)
		// White space around a value belongs to no value (RFC 9110 §5.5).
		header[key] = append(header[key], strings.Trim(h.Value, " \t"))
	}
	switch agents := header[userAgent]; {
	case agents == nil:
		header[userAgent] = d.userAgent
	case len(agents) > 1: // net/http sends one, and none if it is empty
		header[userAgent] = agents[:1]
	}
	// As net/http does it: not for a range, since a part of a compressed body
	// can't be decoded, and not for HEAD, which has none.
	if header["Accept-Encoding"] == nil && header["Range"] == nil && a.Method != http.MethodHead {
		header["Accept-Encoding"] = gzipRequested
	}
	if r.Transaction != "" && t.Transactions != nil {
		header[headerKey(http.CanonicalHeaderKey(t.Transactions.SendAs.Header))] = []string{r.Transaction}
	}
	if t.IdempotencyKeyHeader != "" {
		if key := headerKey(http.CanonicalHeaderKey(t.IdempotencyKeyHeader)); header[key] == nil {
			header[key] = []string{idempotencyKey(r.BatchID, r.Index)}
		}
	}
	return header
}

// headerKey returns the map key under which a canonical header name is sent.
// net/http looks for these two under their canonical names, and replays a POST
// that has one; in lower case it sends them without looking.
func headerKey(canonical string) string {
	switch canonical {
	case "Idempotency-Key":
		return "idempotency-key"
	case "X-Idempotency-Key":
		return "x-idempotency-key"
	}
	return canonical
}

// idempotencyKey returns the key of every attempt at one action: 128 bits in
// hexadecimal, short enough for the APIs that bound the length.
func idempotencyKey(batchID string, index int) string {
	sum := sha256.Sum256([]byte(batchID + "/" + strconv.Itoa(index)))
	return hex.EncodeToString(sum[:16])
}

// scope is the recipient of a header field.
type scope uint8

const (
	passed   scope = iota // end to end
	hopByHop              // for the connection (RFC 9110 §7.6.1)
	framing               // set by the client that sends the message
)

// disposition returns the scope of a header with that canonical name.
func disposition(canonical string) scope {
	switch canonical {
	case "Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization",
		"Te", "Trailer", "Transfer-Encoding", "Upgrade":
		return hopByHop
	case "Host", "Content-Length", "Expect":
		return framing
	}
	return passed
}

// connectionOptions returns the canonical names that Connection headers list,
// which makes them hop-by-hop too.
func connectionOptions(headers []batch.Field) map[string]bool {
	var named map[string]bool
	for _, h := range headers {
		if !strings.EqualFold(h.Name, "Connection") {
			continue
		}
		for option := range strings.SplitSeq(h.Value, ",") {
			if named == nil {
				named = make(map[string]bool)
			}
			named[http.CanonicalHeaderKey(strings.TrimSpace(option))] = true
		}
	}
	return named
}
