package client_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/client"
)

func TestWaitAsksTheServerToWait(t *testing.T) {
	t.Parallel()
	var prefers []string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		prefers = append(prefers, r.Header.Get("Prefer"))
		if len(prefers) == 1 {
			reply(w, 200, running)
			return
		}
		reply(w, 200, completed)
	})
	batch, err := c.Wait(t.Context(), "b1")
	require.NoError(t, err)
	require.True(t, batch.AllSucceeded())
	require.Len(t, batch.Results, 1)
	require.Equal(t, []string{"", "wait=20"}, prefers)
}

func TestWatchDoesNotSpinWhereNobodyHonoursThePreference(t *testing.T) {
	t.Parallel()
	var calls atomic.Int32
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		calls.Add(1)
		reply(w, 200, running)
	})
	ctx, cancel := context.WithTimeout(t.Context(), 1200*time.Millisecond)
	defer cancel()
	var last error
	for _, err := range c.Watch(ctx, "b1", time.Second) {
		last = err
	}
	require.ErrorIs(t, last, context.DeadlineExceeded)
	require.LessOrEqual(t, calls.Load(), int32(4))
}

func TestWaitReturnsWhatCannotPass(t *testing.T) {
	t.Parallel()
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) { reply(w, 404, `{"detail":"no such batch"}`) })
	_, err := c.Wait(t.Context(), "b1")
	require.EqualError(t, err, "the server answered 404: no such batch")
}

const resultLines = `{"id":"a","index":0,"outcome":"succeeded","status":201,"headers":{"content-type":"application/json","set-cookie":["a","b"]},"body":{"n":1,"s":"<"},"attempts":1,"started_at":"2026-01-02T03:04:05Z","duration_ms":12}
{"id":"1","index":1,"outcome":"failed","status":404,"body_text":"gone","attempts":2}
{"id":"2","index":2,"outcome":"succeeded","status":200,"body_base64":"/w==","truncated":true,"attempts":1}
{"id":"3","index":3,"outcome":"errored","error":{"code":"timeout","message":"the answer did not come in time"},"attempts":1}
`

func TestResultsStreamInOrder(t *testing.T) {
	t.Parallel()
	var got *http.Request
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		got = r
		w.Header().Set("Content-Type", "application/x-ndjson")
		_, _ = io.WriteString(w, resultLines)
	})
	var results []*client.Result
	var again string
	for r, err := range c.Results(t.Context(), "b1", client.Filter{Outcomes: []client.Outcome{client.Failed, client.Errored}}) {
		require.NoError(t, err)
		results = append(results, r)
		line, err := r.MarshalJSON()
		require.NoError(t, err)
		again += string(line) + "\n"
	}
	require.Equal(t, "/batch/b1/results?outcome=failed%2Cerrored", got.URL.String())
	require.Contains(t, got.Header.Get("Accept"), "application/x-ndjson")
	require.Len(t, results, 4)
	require.Equal(t, resultLines, again, "a result encodes as it came") //nolint:testifylint // byte for byte

	require.True(t, results[0].JSON)
	require.Equal(t, []string{"a", "b"}, results[0].Headers.Values("Set-Cookie"))
	require.Equal(t, 12*time.Millisecond, results[0].Duration)
	var body struct{ N int }
	require.NoError(t, results[0].Decode(&body))
	require.Equal(t, 1, body.N)
	require.Equal(t, "gone", string(results[1].Body))
	require.Error(t, results[1].Decode(&body))
	require.Equal(t, []byte{0xff}, results[2].Body)
	require.True(t, results[2].Truncated)
	require.Equal(t, "timeout", results[3].Error.Code)
}

func TestResultsThatAreCutOffAreAnError(t *testing.T) {
	t.Parallel()
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, resultLines)
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	n := 0
	var last error
	for _, err := range c.Results(t.Context(), "b1", client.Filter{}) {
		if last = err; err == nil {
			n++
		}
	}
	require.Equal(t, 4, n)
	require.ErrorIs(t, last, io.ErrUnexpectedEOF)
}

func TestResultsMayBeLeftHalfWay(t *testing.T) {
	t.Parallel()
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; ; i++ {
			if _, err := fmt.Fprintf(w, `{"id":"%d","index":%d,"outcome":"succeeded","attempts":1}`+"\n", i, i); err != nil {
				return
			}
		}
	})
	for r, err := range c.Results(t.Context(), "b1", client.Filter{}) {
		require.NoError(t, err)
		if r.Index == 10 {
			break
		}
	}
}

func TestEventsEndWithTheBatch(t *testing.T) {
	t.Parallel()
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, ": hello\nretry: 1000\n\nevent: progress\nid: 7\r\ndata: {\"id\":\"b1\",\ndata: \"status\":\"running\"}\n\nevent: end\ndata: {\"status\":\"completed\"}\n\nevent: never\ndata: {}\n\n")
	})
	var seen []string
	for u, err := range c.Events(t.Context(), "b1") {
		require.NoError(t, err)
		seen = append(seen, u.Type+" "+u.ID+" "+string(u.Batch.Status))
	}
	require.Equal(t, []string{"progress 7 running", "end 7 completed"}, seen)
}

func TestEventsThatBreakOffAreAnError(t *testing.T) {
	t.Parallel()
	for _, stream := range []string{"", "data: {\"status\":\"running\"}\n\n", "data: {\"status\":\"completed\"}\n", "data: no json\n\n"} {
		c := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, stream) })
		var last error
		for _, err := range c.Events(t.Context(), "b1") {
			last = err
		}
		require.Error(t, last, stream)
	}
}
