package api

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/webhook"
)

func TestAnOwnerReadsItsOwnWebhookSecret(t *testing.T) {
	t.Parallel()
	const former = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
	f := setup(t, passthrough, func(c *Config) { c.Webhooks.PreviousSecret, c.Targets = former, []string{"crm"} })
	read := func(credential string) (doc webhookSecretDocument) {
		w := f.do(t, call{method: "GET", path: "/webhook-secret", headers: []string{"Authorization: " + credential}})
		require.Equal(t, http.StatusOK, w.Code, "%s", w.Body)
		require.Equal(t, "no-store", w.Header().Get("Cache-Control"))
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &doc))
		return doc
	}
	alice, bob := read("Bearer alice"), read("Bearer bob")
	require.Equal(t, alice, read("Bearer alice"))
	seen := map[string]bool{webhookSecret: true, former: true}
	for _, s := range []string{alice.Secret, alice.PreviousSecret, bob.Secret, bob.PreviousSecret} {
		require.NoError(t, webhook.CheckSecret(s))
		require.NotEmpty(t, s)
		require.False(t, seen[s], "each is another one")
		seen[s] = true
	}
	requireProblem(t, f.do(t, call{method: "GET", path: "/webhook-secret"}), http.StatusUnauthorized)
	requireProblem(t, f.do(t, call{method: "GET", path: "/webhook-secret?x=1", headers: []string{"Authorization: Bearer alice"}, bad: true}), http.StatusBadRequest)
	without := setup(t, func(c *Config) { c.Webhooks.Secret = "" })
	requireProblem(t, without.do(t, call{method: "GET", path: "/webhook-secret"}), http.StatusNotFound)
}

func TestTheWebhookSecretIsThatOfTheOwnerOfABatch(t *testing.T) {
	t.Parallel()
	f := setup(t, passthrough)
	ask := func(query, credential string) *httptest.ResponseRecorder {
		return f.do(t, call{method: "GET", path: "/webhook-secret" + query, headers: []string{"Authorization: Bearer " + credential}})
	}
	requireProblem(t, ask("", "alice"), http.StatusBadRequest)
	seen := map[string]bool{}
	for _, target := range []string{"crm", "billing"} {
		id := f.created(t, call{body: strings.Replace(two, "crm", target, 1), headers: []string{"Authorization: Bearer alice"}})
		w := ask("?batch="+id, "alice")
		var doc webhookSecretDocument
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &doc))
		want, err := f.cfg.Webhooks.OwnerSecrets(f.store.batches[id].Owner)
		require.NoError(t, err)
		require.Equal(t, want.Secret.Reveal(), doc.Secret)
		require.False(t, seen[doc.Secret])
		seen[doc.Secret] = true
		requireProblem(t, ask("?batch="+id, "bob"), http.StatusNotFound)
	}
	requireProblem(t, ask("?batch=unknown", "alice"), http.StatusNotFound)
}

func TestABatchBringsTheSecretOfItsWebhook(t *testing.T) {
	t.Parallel()
	const own = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz"
	submit := func(hook string) call {
		return call{method: "POST", path: "/batch", body: `{"target":"crm","webhook":` + hook + `,"actions":[{"method":"GET","path":"/"}]}`}
	}
	f := setup(t)
	hook := `{"secret":"` + own + `","url":"https://example.com/hook"}`
	w := f.do(t, submit(hook))
	require.Equal(t, http.StatusAccepted, w.Code, "%s", w.Body)
	require.NotContains(t, w.Body.String(), own)
	id := w.Header().Get("Location")
	require.NotContains(t, f.do(t, call{method: "GET", path: id}).Body.String(), own)
	require.NotContains(t, f.log.String(), own)
	require.Equal(t, own, f.store.batches[id[len("/batch/"):]].WebhookSecret)
	for bad, says := range map[string]string{
		`{"secret":"","url":"https://example.com/"}`:               "empty",
		`{"secret":"whsec_aHVzaA==","url":"https://example.com/"}`: "has 4 bytes",
		`{"secret":"hush","url":"https://example.com/"}`:           "whsec_",
	} {
		c := submit(bad)
		c.bad = true
		w := f.do(t, c)
		requireFaults(t, w, []fault{{-1, "/webhook/secret", says}})
		require.NotContains(t, w.Body.String(), "hush")
		require.NotContains(t, w.Body.String(), "aHVza")
	}
	c := submit(`{"secret":"` + own + `"}`)
	c.bad = true
	requireFaults(t, f.do(t, c), []fault{{-1, "/webhook", "no url"}})
	unsealed := setup(t, func(c *Config) { c.Sealed = false })
	requireFaults(t, unsealed.do(t, submit(hook)), []fault{{-1, "/webhook/secret", "seal.keys"}})
}

func TestWebhooksGoWhereTheSettingsAllow(t *testing.T) {
	t.Parallel()
	f := setup(t, func(c *Config) {
		c.Webhooks.Hosts = []webhook.HostRule{{Owner: "anonymous", Allow: []string{"hooks.example.com"}}}
	})
	submit := func(url string, bad bool) call {
		return call{method: "POST", path: "/batch", body: `{"target":"crm","webhook":{"url":"` + url + `"},"actions":[{"method":"GET","path":"/"}]}`, bad: bad}
	}
	require.Equal(t, http.StatusAccepted, f.do(t, submit("https://hooks.example.com/x", false)).Code)
	for _, url := range []string{"https://example.com/", "http://127.0.0.1/", "http://redis/", "http://2130706433/", "http://localhost:8080/"} {
		requireFaults(t, f.do(t, submit(url, true)), []fault{{-1, "/webhook/url", webhook.ErrHost.Error()}})
	}
	requireFaults(t, f.do(t, submit("https://hooks.example.com:8080/", true)), []fault{{-1, "/webhook/url", "the port 8080"}})
	w := f.do(t, call{method: "POST", path: "/batch?target=crm&webhook=https://example.com/", body: "{\"method\":\"GET\",\"path\":\"/\"}", headers: []string{"Content-Type: application/x-ndjson"}, bad: true})
	requireFaults(t, w, []fault{{-1, "", webhook.ErrHost.Error()}})
}
