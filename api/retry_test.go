package api

import (
	"net/http"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

// A retry that names no outcomes repeats nothing that may have been done already, and
// nothing that a person had stopped.
func TestARetryWithoutOutcomesLeavesUnknownAndCancelledAlone(t *testing.T) {
	t.Parallel()
	outcomes := []batch.Outcome{
		batch.Succeeded, batch.Failed, batch.Errored, batch.Unknown, batch.Cancelled, batch.Expired, batch.Skipped,
	}
	for query, again := range map[string][]batch.Outcome{
		"":                           {batch.Failed, batch.Errored, batch.Expired, batch.Skipped},
		"?outcome=unknown":           {batch.Unknown},
		"?outcome=cancelled,errored": {batch.Cancelled, batch.Errored},
	} {
		f := setup(t)
		id := f.created(t, call{body: actions(len(outcomes))})
		for i, o := range outcomes {
			f.store.finish(id, i, &batch.Result{Outcome: o, Attempts: 1})
		}
		w := f.do(t, call{method: http.MethodPost, path: "/batch/" + id + "/retry" + query})
		require.Equal(t, http.StatusAccepted, w.Code, "%s", w.Body)
		for i, r := range f.store.batches[id].results {
			want := outcomes[i]
			if slices.Contains(again, want) {
				want = batch.Pending
			}
			require.Equal(t, want, r.Outcome, "%q: action %d was %s", query, i, outcomes[i])
		}
	}
}
