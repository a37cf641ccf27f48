package main

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/client"
)

// receive waits for an event for a limited time.
func receive(t *testing.T, events <-chan *client.Event) *client.Event {
	t.Helper()
	select {
	case event := <-events:
		return event
	case <-time.After(webhookWait):
		require.FailNow(t, "no webhook came")
		return nil
	}
}

// TestTheCommandsAgainstARealServer checks that client and server agree.
func TestTheCommandsAgainstARealServer(t *testing.T) {
	t.Parallel()
	d, err := startDemo(t.Context(), io.Discard)
	require.NoError(t, err)
	defer func() { require.NoError(t, d.close()) }()
	server := d.batchd.URL
	id := func(got commandResult) string {
		require.NotEmpty(t, strings.TrimSpace(got.stdout), got.stderr)
		return strings.TrimSpace(got.stdout)
	}

	// CSV, compressed, with --wait.
	got := batchd(t, "", "submit", file(t, "a.csv", "sku,qty\nA/1,3\nB 2,\n"), "--server", server, "--compress", "zstd", "--wait",
		"--method", "PUT", "--path", "/anything/{sku}?by={sku}", "--body", `{"qty": {qty:number?}, "note": "sku {sku}"}`, "--id", "{sku}",
		"--header-template", "X-Sku: {sku}", "--metadata", "k=v", "--expires-in", "1h", "--retention", "1h", "--webhook", d.receiver.url+"/hook")
	require.Equal(t, exitOK, got.code, got.stderr)
	var results []*client.Result
	for r, err := range d.client.Results(t.Context(), id(got), client.Filter{}) {
		require.NoError(t, err)
		results = append(results, r)
	}
	require.Len(t, results, 2)
	var sent struct {
		URL     string
		Data    string
		Headers http.Header
	}
	require.NoError(t, results[0].Decode(&sent))
	require.Equal(t, "A/1", results[0].ID)
	require.True(t, strings.HasSuffix(sent.URL, "/anything/A%2F1?by=A%2F1"), sent.URL)
	require.JSONEq(t, `{"qty": 3, "note": "sku A/1"}`, sent.Data)
	require.Equal(t, "A/1", sent.Headers.Get("X-Sku"))
	require.NoError(t, results[1].Decode(&sent))
	require.JSONEq(t, `{"qty": null, "note": "sku B 2"}`, sent.Data)

	// The webhook of the batch, and a second delivery.
	event := receive(t, d.hooks.events)
	require.Equal(t, id(got), event.Batch.ID)
	require.Equal(t, map[string]string{"k": "v"}, event.Batch.Metadata)
	require.NoError(t, d.client.Redeliver(t.Context(), id(got)))
	require.Equal(t, event.ID, receive(t, d.hooks.events).ID, "the same event has the same id")
	require.Eventually(t, func() bool {
		log, err := d.client.Deliveries(t.Context(), id(got))
		return err == nil && log.State == client.DeliveryDelivered && log.MessageID == event.ID && len(log.Attempts) == 2
	}, 30*time.Second, 10*time.Millisecond)

	// A document with an action that does not succeed.
	got = batchd(t, `{"actions":[{"method":"GET","path":"/status/404"},{"id":"b","method":"GET","path":"/uuid"}]}`, "submit", "-", "--wait", "--server", server)
	require.Equal(t, exitNotAll, got.code, got.stderr)
	second := id(got)
	got = batchd(t, "", "results", second, "--outcome", "failed", "--format", "csv", "--server", server)
	require.Equal(t, exitOK, got.code, got.stderr)
	require.Regexp(t, `^id,index,outcome,status,attempts,duration_ms,error_code,truncated_by,body\n0,0,failed,404,1,\d+,,,\n$`, got.stdout)
	got = batchd(t, "", "cancel", second, "--server", server)
	require.Equal(t, exitFailure, got.code)
	require.Contains(t, got.stderr, "409")

	// A batch that is cancelled while it runs, and followed by another command.
	got = batchd(t, strings.Repeat(`{"method":"GET","path":"/delay/1"}`+"\n", 300), "submit", "-", "--server", server)
	require.Equal(t, exitOK, got.code, got.stderr)
	third := id(got)
	got = batchd(t, "", "cancel", third, "--server", server)
	require.Equal(t, exitOK, got.code, got.stderr)
	got = batchd(t, "", "status", third, "--wait", "--server", server)
	require.Equal(t, exitNotAll, got.code, got.stderr)
	require.Contains(t, got.stderr, " cancelled")

	// The list of batches, which has another page.
	got = batchd(t, "", "list", "--server", server, "--format", "table")
	require.Equal(t, exitOK, got.code, got.stderr)
	require.Less(t, strings.Index(got.stdout, third), strings.Index(got.stdout, second), "newest first")

	// A file that is submitted twice with one key is one batch.
	path := file(t, "b.ndjson", `{"method":"GET","path":"/uuid"}`+"\n")
	first := batchd(t, "", "submit", path, "--idempotency-key", "once", "--server", server)
	require.Equal(t, id(first), id(batchd(t, "", "submit", path, "--idempotency-key", "once", "--server", server)))

	// Faults, with their lines.
	got = batchd(t, "\n"+`{"method":"GET","path":"/a"}`+"\n"+`{"method":"GETT","path":"/a"}`, "submit", "-", "--server", server)
	require.Equal(t, exitFailure, got.code)
	require.Contains(t, got.stderr, "standard input:3: /method: unknown method")

	require.NoError(t, d.client.Delete(t.Context(), second))
	got = batchd(t, "", "status", second, "--server", server)
	require.Equal(t, exitFailure, got.code)
	require.Contains(t, got.stderr, "404")
}
