package api

import (
	"context"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/api/auth"
	"github.com/batchd/batchd/internal/batch"
)

// amplified are requests with one action that is not valid, each of which is small and
// would unfold to much more: a name times its values, a value times what it needs in
// memory, or a pointer times its faults.
func amplified() map[string]call {
	repeat := func(one string, n int) string { return strings.TrimSuffix(strings.Repeat(one+",", n), ",") }
	long, escaped := strings.Repeat("a", 20_000), strings.Repeat("é", 10_000)
	below := strings.Repeat("a", 16_000) // the longest name of which pointers are made
	headers := make([]string, 0, 100)
	for i := range 100 {
		headers = append(headers, fmt.Sprintf(`"x-%d":[%s]`, i, repeat(`""`, 2000)))
	}
	wrong := make([]string, 0, 100)
	for i := range 100 {
		wrong = append(wrong, fmt.Sprintf(`"%s%d":1`, strings.Repeat("/", 100), i))
	}
	calls := make(map[string]call)
	each := func(name, action string) {
		calls["native: "+name] = call{path: "/batch", body: `{"target":"crm","actions":[{"method":"GET","path":"/a",` + action + `}]}`}
		calls["undo: "+name] = call{path: "/batch", body: `{"target":"crm","actions":[{"method":"GET","path":"/a","undo":{"method":"GET","path":"/a",` + action + `}}]}`}
		calls["NDJSON: "+name] = call{path: "/batch?target=crm", headers: []string{"Content-Type: application/x-ndjson"}, body: `{"method":"GET","path":"/a",` + action + `}`}
		calls["requests: "+name] = call{path: "/api/batch", body: `{"requests":[{"method":"GET","path":"/a",` + action + `}]}`}
	}
	each("values of a query", `"query":{"`+long+`":[`+repeat("1", 10_000)+`]}`)
	each("values of a short name", `"query":{"a":[`+repeat("1", 10_000)+`]}`)
	each("values of a query with escapes", `"query":{"`+escaped+`":[`+repeat("1", 10_000)+`]}`)
	each("values of the longest name", `"query":{"`+below+`":[`+repeat("1", 10_000)+`]}`)
	each("values of a header", `"headers":{"`+below+`":[`+repeat(`""`, 10_000)+`]}`)
	each("values of headers", `"headers":{`+strings.Join(headers, ",")+`}`)
	each("wrong values of a header", `"headers":{"`+below+`":[`+repeat("1", 10_000)+`]}`)
	each("wrong values of a header with a long name", `"headers":{"`+strings.Repeat("a", 200_000)+`":[`+repeat("1", 10_000)+`]}`)
	each("wrong values of a query", `"query":{"`+below+`":[`+repeat("[]", 10_000)+`]}`)
	each("wrong headers after wrong values", `"query":{"a":[`+repeat("[]", 99)+`]},"headers":{"`+below+`":[`+repeat(`"\u0001"`, 99)+`]}`)
	each("wrong names", `"headers":{`+strings.Join(wrong, ",")+`}`)
	asana := func(action string) call {
		return call{path: "/api/1.0/batch", body: `{"data":{"actions":[{"method":"GET","relative_path":"/a",` + action + `}]}}`}
	}
	calls["asana: values of a query"] = asana(`"data":{"` + long + `":[` + repeat("1", 10_000) + `]}`)
	calls["asana: wrong values of a query"] = asana(`"data":{"` + below + `":[` + repeat("[]", 10_000) + `]}`)
	calls["asana: options"] = asana(`"options":{"fields":[` + repeat(`"`+strings.Repeat("é", 100)+`"`, 1000) + `]}`)
	calls["primaerp: lines of headers"] = call{path: "/v1/batch/?token=t", body: `[{"method":"GET","path":"/a","headers":"` + strings.Repeat(`a:\n`, 100_000) + `"}]`}
	calls["primaerp: a long token"] = call{
		path: "/v1/batch/?token=" + strings.Repeat("t", 16_000), body: `[` + repeat(`{"method":"GET","path":"/a"}`, 100) + `]`,
	}
	return calls
}

// An action's own bounds hold while it is read: what it allocates does not grow with the
// product of its parts.
func TestAnActionUnfoldsToNoMoreThanItsBounds(t *testing.T) {
	f := setup(t, endpoints)
	for name, c := range amplified() {
		r := c.request(t)
		r.Method = http.MethodPost
		if r.Header.Get("Content-Type") == "" {
			r.Header.Set("Content-Type", mediaJSON)
		}
		r.Header.Set("Authorization", "Bearer a")
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		w := serve(f, r)
		runtime.ReadMemStats(&after)
		allocated := after.TotalAlloc - before.TotalAlloc
		require.Equal(t, http.StatusBadRequest, w.Code, "%s: %.200s", name, w.Body)
		require.LessOrEqual(t, allocated, uint64(16<<20), "%s: a body of %d bytes", name, len(c.body))
		require.Less(t, w.Body.Len(), 256<<10, name)
	}
}

// The search for duplicate names needs more memory than the names: it counts.
func TestTheNamesOfABodyAreCounted(t *testing.T) {
	t.Parallel()
	var names strings.Builder
	for i := range 60_000 {
		fmt.Fprintf(&names, `"%04x":0,`, i)
	}
	object := "{" + names.String() + `"z":0}`
	for name, c := range map[string]call{
		"native":   {path: "/batch", body: `{"target":"crm","actions":[{"method":"POST","path":"/a","body":` + object + `}]}`},
		"requests": {path: "/api/batch", body: `{"requests":[{"method":"POST","path":"/a","body":` + object + `}]}`},
		"asana":    {path: "/api/1.0/batch", body: `{"data":{"actions":[{"method":"POST","relative_path":"/a","data":` + object + `}]}}`},
	} {
		for budget, status := range map[int64]int{7 << 20: http.StatusRequestEntityTooLarge, 32 << 20: http.StatusAccepted} {
			f := setup(t, endpoints, func(c *Config) { c.Limits.Capacity.BodyMemory = budget })
			c.headers = []string{"Content-Type: application/json", "Authorization: Bearer a", "Prefer: respond-async"}
			r := c.request(t)
			r.Method = http.MethodPost
			w := serve(f, r)
			require.Equal(t, status, w.Code, "%s: %.200s", name, w.Body)
			require.Zero(t, f.memory.inUse())
		}
	}
}

// A body that is too large is refused before anything else is made of it.
func TestABodyThatIsTooLargeIsNotSearched(t *testing.T) {
	var names strings.Builder
	for i := range 300_000 {
		fmt.Fprintf(&names, `"%05x":0,`, i)
	}
	object := "{" + names.String() + `"z":0}`
	f := setup(t, endpoints)
	for name, c := range map[string]call{
		"native":   {path: "/batch", body: `{"target":"crm","actions":[{"method":"POST","path":"/a","body":` + object + `}]}`},
		"requests": {path: "/api/batch", body: `{"requests":[{"method":"POST","path":"/a","body":` + object + `}]}`},
		"asana":    {path: "/api/1.0/batch", body: `{"data":{"actions":[{"method":"POST","relative_path":"/a","data":` + object + `}]}}`},
	} {
		c.headers = []string{"Content-Type: application/json", "Authorization: Bearer a"}
		r := c.request(t)
		r.Method = http.MethodPost
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		w := serve(f, r)
		runtime.ReadMemStats(&after)
		require.Equal(t, http.StatusBadRequest, w.Code, "%s: %.200s", name, w.Body)
		require.Contains(t, w.Body.String(), "at most 1048576 are allowed")
		require.LessOrEqual(t, after.Mallocs-before.Mallocs, uint64(50_000), "%s: the search makes one for each name", name)
	}
}

// A body whose white space makes it large is not too large.
func TestWhiteSpaceOfABodyDoesNotCount(t *testing.T) {
	t.Parallel()
	f := setup(t, func(c *Config) { c.Limits.MaxActionBody = 1000 })
	body := `{"target":"crm","actions":[{"method":"POST","path":"/a","body":[` + strings.Repeat(" ", 2000) + `1]}]}`
	f.created(t, call{path: "/batch", headers: []string{"Content-Type: application/json"}, body: body})
}

// The credential that is passed on with every action is stored with every one: it counts.
func TestWhatIsAddedToEachActionCounts(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]call{
		"native":   {path: "/batch", body: `{"target":"crm","actions":[` + strings.TrimSuffix(strings.Repeat(`{"method":"GET","path":"/"},`, 100), ",") + `]}`},
		"requests": {path: "/api/batch", body: `{"requests":[` + strings.TrimSuffix(strings.Repeat(`{"method":"GET","path":"/"},`, 100), ",") + `]}`},
	} {
		f := setup(t, endpoints, func(c *Config) {
			c.Auth.Modes = []auth.Mode{auth.ModePassthrough}
			c.Owner = func(_ context.Context, credential string) (string, error) { return credential, nil }
			c.Endpoints[1].MaxActions = 100
			c.Limits.MaxBody, c.Limits.MaxActionBody = 1<<20, 1<<10
		})
		f.store.run = func(int, *batch.Action) *batch.Result { return succeeded("1") }
		for length, status := range map[int]int{1_000: 0, 15_000: http.StatusRequestEntityTooLarge} {
			c.headers = []string{"Content-Type: application/json", "Authorization: Bearer " + strings.Repeat("x", length)}
			r := c.request(t)
			r.Method = http.MethodPost
			w := serve(f, r)
			if status == 0 {
				require.Less(t, w.Code, 300, "%s: %s", name, w.Body)
				continue
			}
			require.Contains(t, requireProblem(t, w, status).Detail, "limits.max_body", name)
		}
	}
}
