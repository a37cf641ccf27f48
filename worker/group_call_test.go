package worker

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

func TestTheTransactionIsFoundInTheAnswerToBegin(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ pointer, header, body, want, fault string }{
		{"/id", "", `{"id":"t-1"}`, "t-1", ""},
		{"/id", "", `{"id":12345678901234567890}`, "12345678901234567890", ""},
		{"/a~1b/1/~0", "", `{"a/b":[0,{"~":"x"}]}`, "x", ""},
		{"/id", "", `{"id":"../../admin"}`, "", "cannot be put into a path"},
		{"/id", "", `{"id":".."}`, "", "cannot be put into a path"},
		{"/id", "", `{"id":"a\nb"}`, "", "cannot be put into a path"},
		{"/id", "", `{"id":"` + strings.Repeat("x", 2000) + `"}`, "", "cannot be put into a path"},
		{"/id", "", `{"id":"a b%/é"}`, "a b%/é", ""},
		{"/id", "", `{"id":null}`, "", "no transaction id in the JSON body at /id"},
		{"/id", "", `{"id":{}}`, "", "no transaction id"},
		{"/0", "", `["x"]`, "x", ""},
		{"/00", "", `["x"]`, "", "no transaction id"},
		{"/-1", "", `["x"]`, "", "no transaction id"},
		{"/id/x", "", `{"id":"x"}`, "", "no transaction id"},
		{"/id", "", `hello`, "", "no transaction id"},
		{"/id", "", ``, "", "no transaction id"},
		{"", "X-Id", `{"id":"x"}`, "h-1", ""},
		{"", "X-None", `{"id":"x"}`, "", "no transaction id in the header X-None"},
	} {
		s := &saga{target: batch.Target{Transactions: &batch.Transactions{
			ID: batch.Locator{Pointer: row.pointer, Header: row.header}, SendAs: batch.Sender{Header: "X-Tx"},
			Commit: batch.Call{Method: "POST", Path: "/tx/{id}"}, Rollback: batch.Call{Method: "DELETE", Path: "/tx/{id}"},
		}}}
		id, err := s.transactionID(&batch.Result{Body: []byte(row.body), Headers: []batch.Field{{Name: "x-id", Value: "h-1"}}})
		require.Equal(t, row.want, id, row.body)
		if row.fault != "" {
			require.ErrorContains(t, err, row.fault, row.body)
		} else {
			require.NoError(t, err, row.body)
		}
	}
}

func TestTheCallsCarryTheCredentialsOfTheGroup(t *testing.T) {
	t.Parallel()
	s := &saga{
		id: "b", known: true,
		g: &batch.Group{Step: batch.GroupCommit, Transaction: "t 1", Members: []batch.Member{{Index: 3}}},
		begun: &batch.Begun{Action: batch.Action{Query: "a=1&token=t%20x&Api_Key=k", Headers: []batch.Field{
			{Name: "authorization", Value: "Bearer t"}, {Name: "x-other", Value: "o"}, {Name: "X-TX", Value: "mine"},
		}}},
		target: batch.Target{IdempotencyKeyHeader: "Idempotency-Key", Transactions: &batch.Transactions{
			SendAs: batch.Sender{Header: "X-Tx"}, Commit: batch.Call{Method: "POST", Path: "/tx/{id}/commit"}, Rollback: batch.Call{Method: "POST", Path: "/tx/{id}/rollback"},
		}},
	}
	commit, failure := s.request(t.Context())
	require.Nil(t, failure)
	require.Equal(t, "/tx/t%201/commit", commit.Path)
	require.Equal(t, "token=t%20x&Api_Key=k", commit.Query)
	require.Equal(t, batch.Field{Name: "authorization", Value: "Bearer t"}, commit.Headers[0])
	require.Len(t, commit.Headers, 2, "the credential and the idempotency key")
	require.Empty(t, commit.Validate())
	s.g.Step = batch.GroupRollback
	rollback, failure := s.request(t.Context())
	require.Nil(t, failure)
	require.Equal(t, batch.RetrySafe, rollback.Retry)
	one, _ := commit.Header("Idempotency-Key")
	other, _ := rollback.Header("Idempotency-Key")
	require.NotEqual(t, one, other, "the target must not take one for the other")
	require.Len(t, one, 32)
}
