package client_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/client"
)

func TestSubmitSendsTheDocumentOfTheNativeAPI(t *testing.T) {
	t.Parallel()
	var body string
	var header http.Header
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		data, _ := io.ReadAll(r.Body)
		body, header = string(data), r.Header
		reply(w, 202, `{"id":"b1","status":"queued","counts":{"total":3,"pending":3},"links":{"self":"/batch/b1"}}`)
	})
	batch, err := c.Submit(t.Context(), []client.Action{
		{
			ID: "a", Method: "POST", Path: "/items", Query: url.Values{"dry": {"1"}, "tag": {"x", "y"}},
			Headers: http.Header{"content-type": {"application/json"}},
			Body:    json.RawMessage(`{"z":"<&>","a":1.0}`), Timeout: 10 * time.Second, Retry: client.RetrySafe,
		},
		{Method: "PUT", Path: "/t", BodyText: "a<b"},
		{Method: "PUT", Path: "/b", BodyBytes: []byte{0xff}},
	}, client.Options{
		Target: "crm", WebhookURL: "https://example.com/hook", ExpiresIn: time.Hour,
		Retention: 90 * time.Minute, Metadata: map[string]string{"k": "v"}, Wait: 1500 * time.Millisecond,
	})
	require.NoError(t, err)
	require.Equal(t, "b1", batch.ID)
	require.Equal(t, 3, batch.Counts.Pending)
	require.Equal(t, `{"target":"crm","actions":[`+ //nolint:testifylint // byte for byte
		`{"id":"a","method":"POST","path":"/items","query":{"dry":"1","tag":["x","y"]},"headers":{"content-type":"application/json"},"body":{"z":"<&>","a":1.0},"timeout":"10s","retry":"safe"},`+
		`{"method":"PUT","path":"/t","body_text":"a<b"},`+
		`{"method":"PUT","path":"/b","body_base64":"/w=="}],`+
		`"webhook":{"url":"https://example.com/hook"},"expires_in":"1h0m0s","retention":"1h30m0s","metadata":{"k":"v"}}`, body)
	require.Equal(t, "application/json", header.Get("Content-Type"))
	require.Equal(t, "wait=2", header.Get("Prefer"))
	require.NotEmpty(t, header.Get("Idempotency-Key"))
}

func TestSubmitIsRepeatedUnderOneKey(t *testing.T) {
	t.Parallel()
	var bodies, keys []string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		data, _ := io.ReadAll(r.Body)
		bodies, keys = append(bodies, string(data)), append(keys, r.Header.Get("Idempotency-Key"))
		switch len(keys) {
		case 1:
			reply(w, 503, `{}`)
		case 2:
			panic(http.ErrAbortHandler) // the connection breaks: the client cannot know whether the batch was accepted
		default:
			reply(w, 202, running)
		}
	})
	_, err := c.Submit(t.Context(), []client.Action{{Method: "POST", Path: "/a"}}, client.Options{Compression: client.Zstd})
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(keys), 3)
	for i := range keys {
		require.Equal(t, keys[0], keys[i])
		require.Equal(t, bodies[0], bodies[i])
	}
}

func TestAnActionHasOneBodyAtMost(t *testing.T) {
	t.Parallel()
	c := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("the server was called") })
	_, err := c.Submit(t.Context(), []client.Action{{Method: "POST", Path: "/", Body: 1, BodyText: "x"}}, client.Options{})
	require.ErrorContains(t, err, "more than one body")
}

// count yields n actions.
func count(n int) iter.Seq2[client.Action, error] {
	return func(yield func(client.Action, error) bool) {
		for range n {
			if !yield(client.Action{Method: "GET", Path: "/items"}, nil) {
				return
			}
		}
	}
}

func TestStreamsArriveWholeUnderEveryCompression(t *testing.T) {
	t.Parallel()
	const n = 20_000
	for _, compression := range []client.Compression{client.NoCompression, client.Gzip, client.Zstd} {
		var lines int
		var query url.Values
		c := serve(t, func(w http.ResponseWriter, r *http.Request) {
			var body io.Reader = r.Body
			switch r.Header.Get("Content-Encoding") {
			case "gzip":
				unzip, err := gzip.NewReader(body)
				if err != nil {
					t.Error(err)
					return
				}
				body = unzip
			case "zstd":
				unzip, err := zstd.NewReader(body)
				if err != nil {
					t.Error(err)
					return
				}
				defer unzip.Close()
				body = unzip
			}
			data, err := io.ReadAll(body)
			if err != nil {
				t.Error(err)
			}
			lines, query = bytes.Count(data, []byte("{\"method\":\"GET\",\"path\":\"/items\"}\n")), r.URL.Query()
			reply(w, 202, running)
		})
		_, err := c.SubmitStream(t.Context(), count(n), client.Options{
			Target: "crm", WebhookURL: "https://h/?a=b", ExpiresIn: time.Minute, Metadata: map[string]string{"k": "v"}, Compression: compression,
		})
		require.NoError(t, err)
		require.Equal(t, n, lines, compression)
		require.Equal(t, url.Values{"target": {"crm"}, "webhook": {"https://h/?a=b"}, "expires_in": {"1m0s"}, "metadata.k": {"v"}}, query)
	}
}

func TestAnErrorOfTheSourceEndsTheUploadAndIsReturned(t *testing.T) {
	t.Parallel()
	broken := errors.New("row 7 is broken")
	for _, compression := range []client.Compression{client.NoCompression, client.Zstd} {
		var whole atomic.Bool
		c := serve(t, func(w http.ResponseWriter, r *http.Request) {
			_, err := io.ReadAll(r.Body)
			whole.Store(err == nil)
			reply(w, 202, running)
		})
		_, err := c.SubmitStream(t.Context(), func(yield func(client.Action, error) bool) {
			for a := range count(5_000) {
				if !yield(a, nil) {
					return
				}
			}
			yield(client.Action{}, broken)
		}, client.Options{Compression: compression, IdempotencyKey: "k"})
		require.EqualError(t, err, broken.Error(), "and not what the transport makes of it")
		require.False(t, whole.Load(), "the server took a part for the whole")
	}
}

// hastyTransport answers before it has read the body, and continues to read it.
type hastyTransport struct{ body io.ReadCloser }

func (h *hastyTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	h.body = r.Body
	if _, err := h.body.Read(make([]byte, 1)); err != nil {
		return nil, err
	}
	return &http.Response{
		StatusCode: http.StatusUnauthorized, Header: http.Header{}, Request: r,
		Body: io.NopCloser(strings.NewReader("")),
	}, nil
}

func TestTheSourceIsLeftAloneOnceTheCallReturned(t *testing.T) {
	t.Parallel()
	for _, compression := range []client.Compression{client.NoCompression, client.Gzip, client.Zstd} {
		transport := &hastyTransport{}
		c, err := client.New("http://127.0.0.1:1", client.WithHTTPClient(&http.Client{Transport: transport}))
		require.NoError(t, err)
		produced := 0
		source := readerFunc(func(p []byte) (int, error) {
			produced++
			return copy(p, "{}\n"), nil
		})
		_, err = c.SubmitNDJSON(t.Context(), io.LimitReader(source, 1<<20), client.Options{Compression: compression})
		require.Equal(t, http.StatusUnauthorized, requireProblem(t, err).Status)
		before := produced
		_, err = io.Copy(io.Discard, transport.body)
		require.Error(t, err)
		require.Equal(t, before, produced, compression)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestARefusalBeforeTheEndOfAnEndlessUploadIsSeen(t *testing.T) {
	t.Parallel()
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) { reply(w, 401, `{"detail":"who are you?"}`) })
	_, err := c.SubmitStream(t.Context(), count(1<<40), client.Options{})
	require.Error(t, err)
}

func TestANDJSONReaderThatCanGoBackIsSentAgain(t *testing.T) {
	t.Parallel()
	const lines = "{\"method\":\"GET\",\"path\":\"/\"}\n"
	var bodies []string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		data, _ := io.ReadAll(r.Body)
		bodies = append(bodies, string(data))
		if len(bodies) == 1 {
			reply(w, 503, `{}`)
			return
		}
		reply(w, 202, running)
	})
	_, err := c.SubmitNDJSON(t.Context(), strings.NewReader(lines), client.Options{IdempotencyKey: "k"})
	require.NoError(t, err)
	require.Equal(t, []string{lines, lines}, bodies)

	bodies = nil
	_, err = c.SubmitNDJSON(t.Context(), io.MultiReader(strings.NewReader(lines)), client.Options{IdempotencyKey: "k"})
	require.Error(t, err, "what cannot be read again must not be sent again")
	require.Equal(t, []string{lines}, bodies)
}

func TestADocumentTakesNoOptionsOfItsOwn(t *testing.T) {
	t.Parallel()
	var body string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		data, _ := io.ReadAll(r.Body)
		body = r.Header.Get("Content-Type") + " " + string(data)
		reply(w, 202, running)
	})
	_, err := c.SubmitJSON(t.Context(), strings.NewReader(`{"actions":[]}`), client.Options{Target: "crm"})
	require.Error(t, err)
	_, err = c.SubmitJSON(t.Context(), strings.NewReader(`{"actions":[]}`), client.Options{})
	require.NoError(t, err)
	require.Equal(t, `application/json {"actions":[]}`, body)
}

func TestUnknownCompressionIsRefused(t *testing.T) {
	t.Parallel()
	c := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("the server was called") })
	_, err := c.Submit(t.Context(), nil, client.Options{Compression: "brotli"})
	require.ErrorContains(t, err, "brotli")
}

func TestCancellingAnUploadReturnsTheContextsError(t *testing.T) {
	t.Parallel()
	arrived := make(chan struct{})
	c := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		close(arrived)
		_, _ = io.Copy(io.Discard, r.Body)
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-arrived; cancel() }()
	_, err := c.SubmitStream(ctx, count(1<<40), client.Options{})
	require.ErrorIs(t, err, context.Canceled)
}

func TestTextThatIsNotUTF8IsNotSubmitted(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(server.Close)
	c, err := client.New(server.URL)
	require.NoError(t, err)
	const bad = "M\xfcller"
	good := client.Action{Method: "POST", Path: "/"}
	for name, change := range map[string]func(*client.Action){
		"id":           func(a *client.Action) { a.ID = bad },
		"path":         func(a *client.Action) { a.Path = "/" + bad },
		"query":        func(a *client.Action) { a.Query = url.Values{"q": {bad}} },
		"query name":   func(a *client.Action) { a.Query = url.Values{bad: {"v"}} },
		"header":       func(a *client.Action) { a.Headers = http.Header{"A": {"x", bad}} },
		"body":         func(a *client.Action) { a.Body = map[string]any{"name": []string{bad}} },
		"body struct":  func(a *client.Action) { a.Body = struct{ Name string }{bad} },
		"raw body":     func(a *client.Action) { a.Body = json.RawMessage(`"` + bad + `"`) },
		"raw escape":   func(a *client.Action) { a.Body = json.RawMessage(`{"a":"\ud800"}`) },
		"text":         func(a *client.Action) { a.BodyText = bad },
		"group":        func(a *client.Action) { a.Group = bad },
		"undo":         func(a *client.Action) { a.Group, a.Undo = "g", &client.Action{Method: "POST", Path: bad} },
		"batch target": nil,
	} {
		action, opts := good, client.Options{}
		if change != nil {
			change(&action)
		} else {
			opts.Target = bad
		}
		_, err := c.Submit(t.Context(), []client.Action{action}, opts)
		require.Error(t, err, name)
		require.Regexp(t, "UTF-8|surrogate", err.Error(), name)
		_, err = c.SubmitStream(t.Context(), func(yield func(client.Action, error) bool) { yield(action, nil) }, opts)
		require.Error(t, err, name)
		require.Regexp(t, "UTF-8|surrogate", err.Error(), name)
	}
	for _, opts := range []client.Options{{WebhookURL: bad}, {Metadata: map[string]string{"k": bad}}, {Metadata: map[string]string{bad: "v"}}, {IdempotencyKey: bad}} {
		_, err := c.Submit(t.Context(), []client.Action{good}, opts)
		require.ErrorContains(t, err, "not UTF-8")
		_, err = c.SubmitNDJSON(t.Context(), strings.NewReader("{}\n"), opts)
		require.ErrorContains(t, err, "not UTF-8")
	}
	action := good
	action.BodyBytes = []byte(bad)
	text, err := json.Marshal(action)
	require.NoError(t, err)
	require.JSONEq(t, `{"method":"POST","path":"/","body_base64":"TfxsbGVy"}`, string(text))
	action = good
	action.Body = json.RawMessage(` {"b": 1.0, "a": "\ufffd<&>` + "\u2028" + `", "a": 1e400} `)
	text, err = action.MarshalJSON()
	require.NoError(t, err)
	require.Equal(t, `{"method":"POST","path":"/","body":{"b":1.0,"a":"\ufffd<&>`+"\u2028"+`","a":1e400}}`, string(text)) //nolint:testifylint // byte for byte
}

func TestPortsThatNobodyListensOnAreRefused(t *testing.T) {
	t.Parallel()
	for _, port := range []string{"0", "65536", "99999999999999999999"} {
		_, err := client.New("http://127.0.0.1:" + port)
		require.ErrorContains(t, err, "expected 1 to 65535")
	}
}
