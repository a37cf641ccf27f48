package dispatch

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

// undecodable are bodies that are not the gzip streams that they are said to be.
func undecodable(t *testing.T) map[string]string {
	t.Helper()
	whole := gzipped(t, strings.Repeat("some text ", 100))
	wrong := []byte(whole)
	wrong[len(wrong)-6] ^= 1
	return map[string]string{
		"plain":                   `{"error":"too many"}`,
		"one byte":                "x",
		"not even a header":       whole[:5],
		"truncated":               whole[:len(whole)/2],
		"without its checksum":    whole[:len(whole)-8],
		"with a wrong checksum":   string(wrong),
		"trailing":                whole + "more",
		"trailing zeros":          whole + "\x00\x00\x00\x00",
		"another one that breaks": whole + whole[:len(whole)/2],
		"deflate":                 "x\x9cK\x04\x00\x00b\x00b",
	}
}

func TestAStatusStaysIfTheBodyCannotBeDecoded(t *testing.T) {
	t.Parallel()
	for name, body := range undecodable(t) {
		for _, chunked := range []bool{false, true} {
			t.Run(fmt.Sprint(name, chunked), func(t *testing.T) {
				t.Parallel()
				framed := fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body)
				if chunked {
					framed = fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(body), body)
				}
				for _, tt := range []struct {
					status  int
					outcome batch.Outcome
					repeat  bool
					after   time.Duration
				}{
					{200, batch.Succeeded, false, 0},
					{201, batch.Succeeded, false, 0},
					{401, batch.Failed, false, 0},
					{404, batch.Failed, false, 0},
					{429, batch.Failed, true, 3 * time.Second},
					{500, batch.Failed, false, 0},
					{503, batch.Failed, true, 3 * time.Second},
				} {
					target := serving(t, fmt.Sprintf("HTTP/1.1 %d Whatever\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\nRetry-After: 3\r\nX-A: b\r\n%s", tt.status, framed))
					d := newDispatcher(t, batch.Target{BaseURL: target.url})
					for range 3 {
						resp := do(t, d, batch.Action{Method: "POST"})
						r := resp.Result
						require.Nil(t, r.Error)
						require.Equal(t, tt.outcome, r.Outcome)
						require.Equal(t, tt.status, r.Status)
						require.Equal(t, body, string(r.Body), "as it came")
						require.True(t, r.Undecoded)
						require.False(t, r.Truncated)
						require.Contains(t, r.Headers, batch.Field{Name: "content-encoding", Value: "gzip"})
						require.Contains(t, r.Headers, batch.Field{Name: "x-a", Value: "b"})
						require.Equal(t, tt.repeat, resp.Repeat)
						require.Equal(t, tt.after, resp.After)
						require.False(t, resp.Unsent)
					}
					// On a busy machine net/http may give one up whose request was hardly written.
					require.Less(t, target.conns.Load(), int64(3), "the answer was read to its end")
				}
			})
		}
	}
}

func TestWhatCannotBeDecodedIsCapped(t *testing.T) {
	t.Parallel()
	for size, truncated := range map[int]bool{1023: false, 1024: false, 1025: true, 200_000: true} {
		target := serving(t, ok("Content-Encoding: gzip\r\n", strings.Repeat("x", size)))
		d := newDispatcher(t, batch.Target{BaseURL: target.url, MaxResponseBody: 1024})
		for range 2 { // the second one with memory of the first
			r := do(t, d, batch.Action{}).Result
			require.Equal(t, 200, r.Status)
			require.Equal(t, strings.Repeat("x", min(size, 1024)), string(r.Body))
			require.Equal(t, truncated, r.Truncated, size)
			require.True(t, r.Undecoded)
		}
	}
}

func TestOtherCodingsAreNotDecoded(t *testing.T) {
	t.Parallel()
	packed := gzipped(t, "hi")
	for headers, undecoded := range map[string]bool{
		"Content-Encoding: br\r\n":                                 true,
		"Content-Encoding: zstd\r\n":                               true,
		"Content-Encoding: Deflate\r\n":                            true,
		"Content-Encoding: compress\r\n":                           true,
		"Content-Encoding: gzip, gzip\r\n":                         true,
		"Content-Encoding: gzip\r\nContent-Encoding: br\r\n":       true,
		"Content-Encoding: br, identity\r\n":                       true,
		"Content-Encoding: gzip, identity\r\n":                     false,
		"Content-Encoding: identity, X-Gzip,\r\n":                  false,
		"Content-Encoding: gzip\r\nContent-Encoding: identity\r\n": false,
	} {
		d := newDispatcher(t, batch.Target{BaseURL: serving(t, ok(headers, packed)).url})
		r := do(t, d, batch.Action{}).Result
		require.Nil(t, r.Error)
		require.Equal(t, undecoded, r.Undecoded, headers)
		if undecoded {
			require.Equal(t, packed, string(r.Body), headers)
		} else {
			require.Equal(t, "hi", string(r.Body), headers)
		}
	}
	for _, headers := range []string{"", "Content-Encoding: identity\r\n", "Content-Encoding: utf-8\r\n", "Content-Encoding: aws-chunked\r\n", "Content-Encoding:\r\n"} {
		d := newDispatcher(t, batch.Target{BaseURL: serving(t, ok(headers, "hi")).url})
		r := do(t, d, batch.Action{}).Result
		require.Equal(t, "hi", string(r.Body))
		require.False(t, r.Undecoded, headers)
	}
	own := []batch.Field{{Name: "Accept-Encoding", Value: "gzip"}}
	d := newDispatcher(t, batch.Target{BaseURL: serving(t, ok("Content-Encoding: gzip\r\n", packed)).url})
	require.True(t, do(t, d, batch.Action{Headers: own}).Result.Undecoded, "who asks for it gets it")
	d = newDispatcher(t, batch.Target{BaseURL: serving(t, ok("Content-Encoding: br\r\n", "")).url})
	require.False(t, do(t, d, batch.Action{}).Result.Undecoded, "there is nothing to decode")
}

// An answer whose body broke off has a status all the same, and headers.
func TestAStatusStaysIfTheBodyBreaksOff(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]struct {
		rest string
		code batch.ErrorCode
		then func(w *wire)
	}{
		"closed":       {"Content-Length: 9\r\n\r\nabc", batch.CodeReset, func(*wire) {}},
		"reset":        {"Content-Length: 9\r\n\r\nabc", batch.CodeReset, func(w *wire) { w.reset() }},
		"chunks":       {"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", batch.CodeReset, func(*wire) {}},
		"no end":       {"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nx\r\n", batch.CodeProtocol, (*wire).untilGone},
		"gzip":         {"Content-Encoding: gzip\r\nContent-Length: 9\r\n\r\n\x1f\x8b\x08", batch.CodeReset, func(*wire) {}},
		"no gzip":      {"Content-Encoding: gzip\r\nContent-Length: 9\r\n\r\nabc", batch.CodeReset, func(*wire) {}},
		"before it":    {"Content-Length: 9\r\n\r\n", batch.CodeReset, func(*wire) {}},
		"stopped":      {"Content-Length: 9\r\n\r\nabc", batch.CodeTimeout, (*wire).untilGone},
		"gzip stopped": {"Content-Encoding: gzip\r\nContent-Length: 9\r\n\r\n\x1f\x8b\x08", batch.CodeTimeout, (*wire).untilGone},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, tt := range []struct {
				method  string
				status  int
				outcome batch.Outcome
				repeat  bool
				after   time.Duration
			}{
				{"POST", 200, batch.Unknown, false, 0},
				{"POST", 302, batch.Unknown, false, 0},
				{"GET", 200, batch.Errored, true, 0},
				{"PUT", 201, batch.Errored, true, 0},
				{"POST", 401, batch.Failed, false, 0},
				{"POST", 404, batch.Failed, false, 0},
				{"GET", 404, batch.Failed, false, 0},
				{"POST", 429, batch.Failed, true, 3 * time.Second},
				{"GET", 429, batch.Failed, true, 3 * time.Second},
				{"POST", 500, batch.Failed, false, 0},
				{"POST", 502, batch.Failed, false, 0},
				{"GET", 502, batch.Failed, true, 3 * time.Second},
				{"POST", 503, batch.Failed, true, 3 * time.Second},
			} {
				target := newRawTarget(t, func(w *wire) {
					w.request()
					w.say(fmt.Sprintf("HTTP/1.1 %d Whatever\r\nRetry-After: 3\r\n%s", tt.status, end.rest))
					end.then(w)
				})
				timeout := time.Minute
				if end.code == batch.CodeTimeout {
					timeout = 100 * time.Millisecond
				}
				d := newDispatcher(t, batch.Target{BaseURL: target.url})
				resp := do(t, d, batch.Action{Method: tt.method, Timeout: timeout})
				for end.code == batch.CodeTimeout && resp.Result.Status == 0 && timeout < time.Minute { // a busy machine's doing
					timeout *= 2
					resp = do(t, d, batch.Action{Method: tt.method, Timeout: timeout})
				}
				r := resp.Result
				require.Equal(t, tt.status, r.Status)
				require.Equal(t, tt.outcome, r.Outcome, "%s %d", tt.method, tt.status)
				require.Contains(t, r.Headers, batch.Field{Name: "retry-after", Value: "3"})
				require.True(t, r.Truncated)
				require.Equal(t, strings.Contains(name, "gzip"), r.Undecoded)
				require.Len(t, r.Body, map[bool]int{false: 3, true: 0}[name == "before it"])
				require.Equal(t, tt.repeat, resp.Repeat, "%s %d", tt.method, tt.status)
				require.Equal(t, tt.after, resp.After, "%s %d", tt.method, tt.status)
				require.False(t, resp.Unsent)
				require.Equal(t, tt.outcome == batch.Failed, r.Error == nil)
				if r.Error != nil {
					require.Equal(t, end.code, r.Error.Code)
					require.True(t, end.code == batch.CodeProtocol || strings.Contains(r.Error.Message, fmt.Sprintf("(status %d)", tt.status)), r.Error.Message)
				}
			}
		})
	}
}

// headThen is a carrier that does something when the head of an answer was read.
type headThen struct {
	carrier

	then func()
}

func (h *headThen) roundTrip(ctx context.Context, x *exchange, req *http.Request) (*http.Response, error) {
	res, err := h.carrier.roundTrip(ctx, x, req)
	h.then()
	return res, err
}

// A worker that stops breaks off what it would read to its end.
func TestAStatusStaysIfTheWorkerStops(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		method  string
		status  int
		outcome batch.Outcome
		repeat  bool
	}{
		{"POST", 200, batch.Unknown, false},
		{"POST", 401, batch.Failed, false},
		{"POST", 429, batch.Failed, true},
		{"GET", 200, batch.Errored, true},
		{"GET", 404, batch.Errored, true}, // sent again, for the rest
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		target := newRawTarget(t, func(w *wire) {
			w.request()
			w.say(fmt.Sprintf("HTTP/1.1 %d Whatever\r\nContent-Length: 9\r\n\r\nabc", tt.status))
			w.untilGone()
		})
		d := newDispatcher(t, batch.Target{BaseURL: target.url})
		crm := d.targets["crm"]
		crm.carrier = &headThen{crm.carrier, func() { cancel(errors.New("stopped")) }}
		resp := d.Do(ctx, &batch.Request{Target: "crm", Action: &batch.Action{Method: tt.method, Path: "/"}})
		require.Equal(t, tt.status, resp.Result.Status)
		require.Equal(t, tt.outcome, resp.Result.Outcome, "%s %d", tt.method, tt.status)
		require.Equal(t, tt.repeat, resp.Repeat, "%s %d", tt.method, tt.status)
		if tt.outcome != batch.Failed {
			require.Equal(t, batch.CodeInterrupted, resp.Result.Error.Code)
		}
	}
}
