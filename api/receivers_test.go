package api

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/apikey"
	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/webhook"
)

const hooked = `{"webhook":{"url":"https://hooks.example.net/"},"target":"crm","actions":[{"method":"GET","path":"/"}]}`

// With passthrough, the owner is that of the target that the submission names.
func TestTheHostsOfTheBatchsOwnerCount(t *testing.T) {
	t.Parallel()
	as := []string{"Authorization: Bearer alice"}
	probe := setup(t, passthrough)
	owners := map[string]string{}
	for _, target := range []string{"crm", "billing"} {
		id := probe.created(t, call{body: strings.Replace(two, "crm", target, 1), headers: as})
		owners[target] = probe.store.batches[id].Owner
	}
	for _, muted := range []string{"crm", "billing"} {
		f := setup(t, passthrough, func(c *Config) {
			c.Webhooks.Hosts = []webhook.HostRule{{Owner: owners[muted], Allow: []string{}}, {Owner: "*", Allow: []string{"*.example.net"}}}
		})
		for _, target := range []string{"crm", "billing"} {
			w := f.do(t, call{method: "POST", path: "/batch", body: strings.Replace(hooked, "crm", target, 1), headers: as})
			if target != muted {
				require.Equal(t, http.StatusAccepted, w.Code, "%s", w.Body)
				continue
			}
			fault := requireProblem(t, w, http.StatusBadRequest).Errors[0]
			require.Equal(t, "/webhook/url", fault.Pointer)
			require.Equal(t, webhook.ErrHost.Error(), fault.Detail)
		}
		require.Equal(t, 1, f.store.holds())
	}
}

func TestAKeyCausesNoWebhookBeyondItsHosts(t *testing.T) {
	t.Parallel()
	free, bound := apikey.New(), apikey.New()
	r := &ring{keys: []batch.Key{{
		Name: "bound", Owner: "alice", Scopes: []string{"submit", "read"}, WebhookHosts: []string{"other.example.net"},
		Secrets: []batch.KeySecret{{SHA256: apikey.HexHash(bound)}},
	}}}
	f := setup(t, withKeys(r, free))
	id := f.created(t, call{body: hooked, headers: []string{"X-Batchd-Key: " + free}})
	f.store.finish(id, 0, succeeded("1"))
	requireProblem(t, f.do(t, call{method: "POST", path: "/batch", body: hooked, headers: []string{"X-Batchd-Key: " + bound}}), http.StatusBadRequest)
	for _, path := range []string{"/retry", "/webhook/redeliver"} {
		w := f.do(t, call{method: "POST", path: "/batch/" + id + path, headers: []string{"X-Batchd-Key: " + bound}})
		require.Contains(t, requireProblem(t, w, http.StatusForbidden).Detail, "receiver", path)
	}
	w := f.do(t, call{method: "POST", path: "/batch/" + id + "/webhook/redeliver", headers: []string{"X-Batchd-Key: " + free}})
	require.Equal(t, http.StatusAccepted, w.Code, "%s", w.Body)
}

// A replay would answer with what the target told another user.
func TestASubmissionWithAnotherCredentialIsNoReplay(t *testing.T) {
	t.Parallel()
	key, r := apikey.New(), &ring{}
	f := setup(t, withKeys(r, key))
	submit := func(credential string) call {
		return call{method: "POST", path: "/batch", body: two, headers: []string{"X-Batchd-Key: " + key, "Idempotency-Key: k", "Authorization: Bearer " + credential}}
	}
	require.Equal(t, http.StatusAccepted, f.do(t, submit("one")).Code)
	require.Equal(t, "true", f.do(t, submit("one")).Header().Get("Idempotency-Replayed"))
	requireProblem(t, f.do(t, submit("two")), http.StatusUnprocessableEntity)
}
