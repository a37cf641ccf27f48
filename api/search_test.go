package api

import (
	"net/http"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/apikey"
	"github.com/batchd/batchd/internal/batch"
)

// allocated returns the bytes that f allocates. No other test may run at the same time.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// A request is searched for keys before its sender is known.
func TestAnUnknownSenderCausesLittleWork(t *testing.T) {
	f := setup(t, withKeys(&ring{}, apikey.New()))
	for _, unit := range []string{"25", "%25", "YmF0Y2hk", "batchd%5F"} {
		hostile := "%" + strings.Repeat(unit, 8<<10/len(unit))
		for _, name := range []string{"Authorization: Bearer ", "X-Batchd-Key: ", "Accept: ", "Prefer: ", "Cookie: ", "X-Request-Id: ", "Idempotency-Key: "} {
			r := call{method: "POST", path: "/batch", body: two, headers: []string{name + strings.Repeat(hostile, 7)}}.request(t)
			require.Less(t, allocated(func() { serve(f, r) }), uint64(2<<20), "%s%s…", name, unit)
		}
	}
}

// What every action has is searched once for a batch.
func TestWhatActionsShareIsSearchedOnce(t *testing.T) {
	f := setup(t, passthrough, func(c *Config) {
		c.Endpoints = []Endpoint{{Path: "/erp", Dialect: "primaerp", Target: "crm", MaxActions: 500}, {Path: "/requests", Dialect: "requests", Target: "crm", MaxActions: 500}}
	})
	hostile := "a%" + strings.Repeat("25", (batch.MaxHeaderLength-100)/2)
	for name, c := range map[string]call{
		"native":   {path: "/batch", headers: []string{"Authorization: Bearer " + hostile}, body: `{"target":"crm","actions":[`},
		"requests": {path: "/requests", headers: []string{"Authorization: Bearer " + hostile}, body: `{"requests":[`},
		"primaerp": {path: "/erp?token=x", headers: []string{"X-A: " + hostile}, body: `[`},
	} {
		end := map[string]string{"native": "]}", "requests": "]}", "primaerp": "]"}[name]
		c.method, c.headers = "POST", append(c.headers, "Content-Type: application/json", "Prefer: respond-async")
		begin := c.body
		used := func(n int) uint64 {
			one := `{"method":"GET","path":"/a"}`
			c.body = begin + strings.Repeat(one+",", n-1) + one + end
			r := c.request(t)
			return allocated(func() { require.Equal(t, http.StatusAccepted, serve(f, r).Code) })
		}
		one, many := used(1), used(400)
		require.Less(t, many, one+400*4<<10, "%s: with 400 actions instead of one", name)
	}
}

func TestWhatItemsInheritIsBounded(t *testing.T) {
	t.Parallel()
	f, key := setup(t, passthrough, func(c *Config) { c.Endpoints = []Endpoint{{Path: "/erp", Dialect: "primaerp", Target: "crm"}} }), apikey.New()
	body := `[{"method":"GET","path":"/a"}` + strings.Repeat(`,{"method":"GET","path":"/a"}`, 9) + `]`
	for says, header := range map[string]string{
		"items inherit have": "X-A: " + strings.Repeat("a", batch.MaxHeaderLength),
		"a key of batchd":    "X-A: " + strings.Replace(key, "_", "%5F", 1),
	} {
		w := serve(f, call{method: "POST", path: "/erp?token=x", headers: []string{header, "Content-Type: application/json"}, body: body}.request(t))
		p := requireProblem(t, w, http.StatusBadRequest)
		require.Len(t, p.Errors, 1)
		require.Contains(t, p.Errors[0].Detail, says)
	}
	require.Zero(t, f.store.holds())
}

// A browser adds the cookie of a session by itself.
func TestItemsDoNotInheritTheCookieOfASession(t *testing.T) {
	t.Parallel()
	for sent, inherited := range map[string]string{
		"a=1; b=2":                                   "Cookie: a=1; b=2",
		"__Host-batchd=secret":                       "",
		"a=1; __Host-batchd=secret;b=2":              "Cookie: a=1;b=2",
		"__Host-batchd-session=secret; a=1":          "Cookie: a=1",
		"batchd_session=secret;a=1; BATCHD=secret":   "Cookie: a=1",
		"a=1;\t__Secure-batchd = secret; batchd":     "Cookie: a=1",
		"__Host-Http-batchd=secret;;a=batchd; x=y=z": "Cookie: ;a=batchd; x=y=z",
	} {
		f := setup(t, passthrough, func(c *Config) { c.Endpoints = []Endpoint{{Path: "/erp", Dialect: "primaerp", Target: "crm"}} })
		r := call{method: "POST", path: "/erp?token=x", headers: []string{"Cookie: " + sent, "Content-Type: application/json", "Prefer: respond-async"}, body: `[{"method":"GET","path":"/a"}]`}.request(t)
		require.Equal(t, http.StatusAccepted, serve(f, r).Code)
		headers := headerText(f.store.stored("batch-1")[0].Headers)
		require.NotContains(t, headers, "secret", sent)
		if inherited == "" {
			require.NotContains(t, headers, "Cookie")
		} else {
			require.Contains(t, headers, inherited)
		}
	}
}
