package api

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/api/auth"
	"github.com/batchd/batchd/internal/apikey"
	"github.com/batchd/batchd/internal/batch"
)

var refusals429 = map[string]struct {
	err  batch.QuotaError
	want string
}{
	"open": {
		batch.QuotaError{Kind: batch.OwnerAccount, Quota: batch.QuotaOpenBatches, Value: 10, Used: 10, Needs: 1, RetryAfter: 1500 * time.Millisecond},
		"your open batches are 10, and the quota quotas.open_batches is 10: wait until some have ended, or cancel some; nothing of it was stored",
	},
	"stored": {
		batch.QuotaError{Kind: batch.AddressAccount, Quota: batch.QuotaStoredBytes, Value: 1 << 20, Used: 1 << 19, Needs: 1000 << 10, RetryAfter: 30 * time.Second},
		"your address's batches store 512 KiB, this one needs at least 1000 KiB more, and the quota quotas.per_address.stored_bytes is 1 MiB: delete batches that have ended, or set a shorter retention; nothing of it was stored",
	},
	"rate": {
		batch.QuotaError{Kind: batch.OwnerAccount, Quota: batch.QuotaUploadRate, Value: 1 << 20, Used: 3 << 20, Needs: 100, RetryAfter: 61500 * time.Millisecond},
		"your recent uploads still count with 3 MiB, this one adds at least 100 bytes, and the quota quotas.upload_rate takes off only 1 MiB a second: try again in 1m2s; nothing of it was stored",
	},
}

func TestARefusalByAQuotaSaysWhatToDo(t *testing.T) {
	t.Parallel()
	for name, test := range refusals429 {
		f := setup(t)
		f.store.refusal = &test.err
		w := f.do(t, call{method: "POST", path: "/batch?target=crm", headers: []string{"Content-Type: application/x-ndjson"}, body: `{"method":"GET","path":"/a"}` + "\n"})
		p := requireProblem(t, w, http.StatusTooManyRequests)
		require.Equal(t, kindQuota.problem("").Type, p.Type, name)
		require.Equal(t, test.want, p.Detail)
		require.NotEmpty(t, w.Header().Get("Retry-After"))
		require.Contains(t, f.do(t, call{method: "GET", path: "/metrics"}).Body.String(),
			`batchd_quota_refusals_total{of="`+string(test.err.Kind)+`",quota="`+test.err.Quota+`"} 1`)
		require.Empty(t, f.store.batches)
	}
	for _, quota := range []string{batch.QuotaStoredBytes, batch.QuotaUploadRate} {
		f := setup(t)
		f.store.refusal = &batch.QuotaError{Kind: batch.OwnerAccount, Quota: quota, Value: 1 << 20, Needs: 2 << 20}
		w := f.do(t, call{method: "POST", path: "/batch", body: `{"target":"crm","actions":[{"method":"GET","path":"/a"}]}`})
		p := requireProblem(t, w, http.StatusBadRequest)
		require.Equal(t, kindOverLimit.problem("").Type, p.Type)
		require.Contains(t, p.Detail, "needs at least 2 MiB")
		require.Contains(t, p.Detail, "send it in several batches")
		require.Empty(t, w.Header().Get("Retry-After"))
	}
}

func TestAQuotaOfAKeyIsNamedAsTheKeys(t *testing.T) {
	t.Parallel()
	key := apikey.New()
	r := &ring{keys: []batch.Key{{
		Name: "small", Owner: "small", Scopes: []string{"submit"}, Secrets: []batch.KeySecret{{SHA256: apikey.HexHash(key)}},
		Quotas: batch.Quotas{OpenBatches: 3, UploadRate: 7, UploadBurst: 5},
	}}}
	f := setup(t, withKeys(r, apikey.New()), withQuotas)
	for _, row := range []struct {
		err  batch.QuotaError
		want string
	}{
		{batch.QuotaError{Kind: batch.OwnerAccount, Quota: batch.QuotaOpenBatches, Value: 3, Used: 3, Needs: 1, RetryAfter: time.Second}, "the quota open_batches of your key is 3"},
		{batch.QuotaError{Kind: batch.OwnerAccount, Quota: batch.QuotaUploadRate, Value: 7, Needs: 6, RetryAfter: time.Second}, "the quota upload_rate of your key takes off"},
		{batch.QuotaError{Kind: batch.OwnerAccount, Quota: batch.QuotaUploadRate, Value: 7, Needs: 8}, "the quota upload_rate of your key is 7 bytes"},
		{batch.QuotaError{Kind: batch.OwnerAccount, Quota: batch.QuotaUploadRate, Value: 5, Needs: 8}, "the quota upload_burst of your key is 5 bytes"},
		{batch.QuotaError{Kind: batch.OwnerAccount, Quota: batch.QuotaStoredBytes, Value: 9, Needs: 10}, "the quota quotas.stored_bytes is 9 bytes"},
		{batch.QuotaError{Kind: batch.AddressAccount, Quota: batch.QuotaOpenBatches, Value: 3, Used: 3, Needs: 1, RetryAfter: time.Second}, "the quota quotas.per_address.open_batches is 3"},
	} {
		f.store.refusal = &row.err
		w := f.do(t, call{method: "POST", path: "/batch", headers: []string{"X-Batchd-Key: " + key}, body: `{"target":"crm","actions":[{"method":"GET","path":"/a"}]}`})
		require.Contains(t, requireProblem(t, w, w.Code).Detail, row.want)
	}
}

func TestDialectsRefuseByAQuotaInTheirOwnFormat(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(s scene) {
		for _, test := range refusals429 {
			s.f.store.refusal = &test.err
			w := serve(s.f, s.d.call().request(s.t))
			require.Equal(s.t, http.StatusTooManyRequests, w.Code, "%s", w.Body)
			require.NotEmpty(s.t, w.Header().Get("Retry-After"))
			if strings.HasPrefix(s.d.path, "/api/1.0/") || strings.Contains(s.d.path, "instances") { // the others use problem documents
				requireJSONType(s.t, w)
				require.NotContains(s.t, w.Body.String(), "urn:problem-type")
			}
			require.Contains(s.t, w.Body.String(), test.err.Quota, "it names the quota")
			require.Empty(s.t, s.f.store.batches)
		}
	}, passthrough)
}

func withQuotas(c *Config) { c.Quotas = DefaultQuotas() }

// from lets a call come from an address.
func (f *fixture) from(t *testing.T, address string, c call) {
	t.Helper()
	r := c.request(t)
	r.RemoteAddr = address
	w := serve(f, r)
	require.Less(t, w.Code, 300, "%s", w.Body)
}

func TestInventedCredentialsCountForTheirAddress(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(s scene) {
		t, f := s.t, s.f
		f.store.run = func(int, *batch.Action) *batch.Result { return succeeded("1") }
		seen := map[string]bool{}
		address := func(peer, name string, headers ...string) string {
			c := s.d.call(headers...)
			c.headers[1], c.path = strings.ReplaceAll(c.headers[1], "alice", name), strings.ReplaceAll(c.path, "alice", name)
			f.from(t, peer, c)
			require.Len(t, f.store.charged, 2)
			first, owner := f.store.charged[0], f.store.charged[1]
			require.Equal(t, batch.AddressAccount, first.Kind, "the address is asked before an owner that may be invented")
			require.Equal(t, batch.OwnerAccount, owner.Kind)
			require.Equal(t, DefaultQuotas().PerAddress, first.Quotas)
			require.Equal(t, DefaultQuotas().Owner, owner.Quotas)
			require.False(t, seen[owner.Name], "another credential is another owner")
			seen[owner.Name] = true
			return first.Name
		}
		same := address("203.0.113.7:1000", "a")
		for _, header := range []string{"X-Forwarded-For: 198.51.100.1", "Forwarded: for=198.51.100.1", "X-Real-IP: 198.51.100.1"} {
			require.Equal(t, same, address("203.0.113.7:2000", strings.ToLower(header[:5]), header), "a header does not change the address")
		}
		require.Equal(t, same, address("[::ffff:203.0.113.7]:1000", "b"))
		require.NotEqual(t, same, address("203.0.113.8:1000", "c"))
		six := address("[2001:db8:1:2::1]:1000", "d")
		require.Equal(t, six, address("[2001:db8:1:2:ffff::1]:1000", "e"))
		require.NotEqual(t, six, address("[2001:db8:1:3::1]:1000", "f"))
	}, passthrough, withQuotas)
}

func TestWithoutPassthroughOnlyTheOwnerCounts(t *testing.T) {
	t.Parallel()
	f := setup(t, withQuotas)
	require.Equal(t, http.StatusAccepted, f.do(t, call{method: "POST", path: "/batch", body: `{"target":"crm","actions":[{"method":"GET","path":"/a"}]}`}).Code)
	require.Equal(t, []batch.Account{{Kind: batch.OwnerAccount, Name: auth.Anonymous, Quotas: DefaultQuotas().Owner}}, f.store.charged)
}

func TestAKeyReplacesQuotasOfItsOwner(t *testing.T) {
	t.Parallel()
	key := apikey.New()
	r := &ring{keys: []batch.Key{{
		Name: "small", Owner: "shared", Scopes: []string{"submit", "read", "cancel"}, Secrets: []batch.KeySecret{{SHA256: apikey.HexHash(key)}},
		Quotas: batch.Quotas{OpenBatches: 3, UploadRate: 5},
	}}}
	f := setup(t, withKeys(r, apikey.New()), withQuotas)
	want := DefaultQuotas().Owner
	want.OpenBatches, want.UploadRate = 3, 5
	accounts := []batch.Account{{Kind: batch.OwnerAccount, Name: "key:shared", Quotas: want}}
	f.store.run = func(int, *batch.Action) *batch.Result { return &batch.Result{Outcome: batch.Failed, Status: 400} }
	w := f.do(t, call{method: "POST", path: "/batch", headers: []string{"X-Batchd-Key: " + key}, body: `{"target":"crm","actions":[{"method":"GET","path":"/a"}]}`})
	require.Equal(t, http.StatusAccepted, w.Code, "%s", w.Body)
	require.Equal(t, accounts, f.store.charged)
	f.store.charged = nil
	w = f.do(t, call{method: "POST", path: w.Header().Get("Location") + "/retry", headers: []string{"X-Batchd-Key: " + key}})
	require.Equal(t, http.StatusAccepted, w.Code, "%s", w.Body)
	require.Equal(t, accounts, f.store.charged, "a retry counts, too")
}

// The quotas of an admin's own key do not count for a batch of another owner.
func TestAnAdminRetriesUnderTheQuotasOfTheOwner(t *testing.T) {
	t.Parallel()
	admin, other := apikey.New(), apikey.New()
	scopes := []string{"submit", "read", "cancel"}
	r := &ring{keys: []batch.Key{
		{Name: "other", Owner: "other", Scopes: scopes, Secrets: []batch.KeySecret{{SHA256: apikey.HexHash(other)}}},
		{
			Name: "admin", Owner: "admin", Scopes: append(scopes, "admin"), Secrets: []batch.KeySecret{{SHA256: apikey.HexHash(admin)}},
			Quotas: batch.Quotas{OpenBatches: 1},
		},
	}}
	f := setup(t, withKeys(r, apikey.New()), withQuotas)
	f.store.run = func(int, *batch.Action) *batch.Result { return &batch.Result{Outcome: batch.Failed, Status: 400} }
	for key, want := range map[string]batch.Account{
		other: {Kind: batch.OwnerAccount, Name: "key:other", Quotas: DefaultQuotas().Owner},
		admin: {Kind: batch.OwnerAccount, Name: "key:admin", Quotas: DefaultQuotas().Owner.Override(batch.Quotas{OpenBatches: 1})},
	} {
		at := "/batch/" + f.created(t, call{body: two, headers: []string{"X-Batchd-Key: " + key}})
		f.store.charged = nil
		w := f.do(t, call{method: "POST", path: at + "/retry", headers: []string{"X-Batchd-Key: " + admin}})
		require.Equal(t, http.StatusAccepted, w.Code, "%s", w.Body)
		require.Equal(t, []batch.Account{want}, f.store.charged)
	}
}
