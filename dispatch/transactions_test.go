package dispatch

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

func transactional(url, header string) batch.Target {
	return batch.Target{Name: "t", BaseURL: url, Deny: []batch.Rule{{Path: "/tx/**"}}, Transactions: &batch.Transactions{
		Begin: batch.Call{Method: "POST", Path: "/tx"}, ID: batch.Locator{Pointer: "/id"}, SendAs: batch.Sender{Header: header},
		Commit: batch.Call{Method: "POST", Path: "/tx/{id}/commit"}, Rollback: batch.Call{Method: "POST", Path: "/tx/{id}/rollback"},
	}}
}

func TestATransactionIsNotNamedInAHeaderThatIsLeftOut(t *testing.T) {
	t.Parallel()
	for _, header := range []string{"connection", "Transfer-Encoding", "TE", "Host"} {
		_, err := New(Config{Targets: []batch.Target{transactional("http://127.0.0.1", header)}})
		require.ErrorContains(t, err, `target "t": /transactions/send_as/header: the header `+header+` belongs to the connection`)
	}
}

func TestTheRulesDoNotConcernTheTargetsOwnCalls(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer server.Close()
	d, err := New(Config{Targets: []batch.Target{transactional(server.URL, "X-Tx")}})
	require.NoError(t, err)
	defer d.Close()
	r := &batch.Request{Target: "t", Action: &batch.Action{Method: "POST", Path: "/tx/1/commit"}}
	require.Equal(t, batch.CodeBlocked, d.Do(t.Context(), r).Result.Error.Code, "sent by a client")
	r.Call = true
	require.Equal(t, batch.Succeeded, d.Do(t.Context(), r).Result.Outcome)
}

// A client could otherwise act in the transaction of another owner.
func TestOnlyBatchdNamesATransaction(t *testing.T) {
	t.Parallel()
	var seen []string
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen = r.Header.Values("X-Tx") }))
	defer server.Close()
	target := transactional(server.URL, "x-tx")
	target.Deny = nil
	send := func(transaction string, headers ...batch.Field) *batch.Failure {
		d, err := New(Config{Targets: []batch.Target{target}})
		require.NoError(t, err)
		defer d.Close()
		seen = nil
		return d.Do(t.Context(), &batch.Request{Target: "t", Transaction: transaction, Action: &batch.Action{Method: "POST", Path: "/", Headers: headers}}).Result.Error
	}
	require.Nil(t, send("one"))
	require.Equal(t, []string{"one"}, seen)
	failure := send("", batch.Field{Name: "X-TX", Value: "another"})
	require.NotNil(t, failure)
	require.Equal(t, batch.CodeBlocked, failure.Code)
	require.Empty(t, seen)
	target.Headers.Allow = []string{"X-Tx"}
	require.Nil(t, send("", batch.Field{Name: "X-TX", Value: "mine"}))
	require.Equal(t, []string{"mine"}, seen)
	require.Nil(t, send("one", batch.Field{Name: "X-TX", Value: "mine"}))
	require.Equal(t, []string{"one"}, seen, "in a transaction the header is batchd's")
}
