package api

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/api/auth"
	"github.com/batchd/batchd/internal/apikey"
	"github.com/batchd/batchd/internal/batch"
)

// ring is a source of keys.
type ring struct {
	mu      sync.Mutex
	keys    []batch.Key
	version int
}

// set replaces the keys, while a server may read them.
func (r *ring) set(keys []batch.Key, version int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keys, r.version = keys, version
}

func (r *ring) Keys(_ context.Context, version string) ([]batch.Key, string, bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := fmt.Sprint(r.version)
	return r.keys, now, now != version, nil
}

// withKeys authenticates by a key of each scope and one of all, all of one owner, and lets other credentials through.
func withKeys(r *ring, all string) func(*Config) {
	r.keys = append(r.keys, batch.Key{Name: "all", Owner: "alice", Scopes: []string{"submit", "read", "cancel"}, Secrets: []batch.KeySecret{{SHA256: apikey.HexHash(all)}}})
	return func(c *Config) {
		passthrough(c)
		c.Auth.Modes, c.Keys = []auth.Mode{auth.ModeKeys, auth.ModePassthrough}, r
	}
}

func TestAKeyIsNeverSentToATarget(t *testing.T) {
	t.Parallel()
	key := apikey.New()
	basic := base64.StdEncoding.EncodeToString([]byte("user:" + key))
	eachDialect(t, func(s scene) {
		t, f, d := s.t, s.f, s.d
		f.store.run = func(int, *batch.Action) *batch.Result { return succeeded("1") }
		sent := func() string {
			var text strings.Builder
			for _, b := range f.store.batches {
				for i := range b.actions {
					text.WriteString(b.actions[i].Path + b.actions[i].Query + headerText(b.actions[i].Headers) + string(b.actions[i].Body) + "\n")
				}
			}
			return text.String()
		}
		// As a credential beside that for the target, and as the only one.
		require.Equal(t, http.StatusOK, serve(f, d.call("X-Batchd-Key: "+key).request(t)).Code)
		require.Contains(t, sent(), "alice")
		bare := d.call("Authorization: Bearer " + key)
		bare.headers = []string{bare.headers[0], bare.headers[2]}
		bare.path = strings.Replace(bare.path, "?token=alice", "", 1)
		w := serve(f, bare.request(t))
		require.Equal(t, http.StatusOK, w.Code, "%s", w.Body)
		require.Len(t, f.store.batches, 2)
		for _, b := range f.store.batches {
			require.Equal(t, "key:alice", b.Owner)
		}
		require.NotContains(t, sent(), "batchd_")
		require.NotContains(t, strings.ToLower(sent()), "x-batchd-key")

		// Anywhere else, nothing is stored.
		for _, other := range []string{
			"X-API-KEY: " + key, "X-USER-KEY: " + key, "Cookie: session=" + key, "X-Custom: " + key, "Authorization: Basic " + basic, "Authorization: " + key,
			"Authorization: Bearer " + key[:40], "Proxy-Authorization: Basic " + basic,
		} {
			c := d.call("X-Batchd-Key: " + key)
			if name, _, _ := strings.Cut(other, ":"); !strings.HasPrefix(d.head, name) {
				c.headers = append(c.headers, other)
			} else {
				c.headers[1] = other
			}
			serve(f, c.request(t))
			require.NotContains(t, sent(), "batchd_", other)
			require.NotContains(t, sent(), basic, other)
		}
		inBody := call{method: "POST", path: d.path, headers: []string{"Content-Type: application/json", "X-Batchd-Key: " + key}, body: `{"_api_key":"` + key + `",` + strings.TrimPrefix(d.body, "{")}
		serve(f, inBody.request(t))
		require.NotContains(t, sent(), "batchd_", "a key in the body")
		c := d.call("X-Batchd-Key: " + key)
		c.path = strings.Replace(c.path, "token=alice", "token="+key, 1)
		c.body = strings.Replace(strings.ReplaceAll(c.body, `"x":1`, `"x":"`+key+`"`), `"body":"x"`, `"body":"`+key+`"`, 1)
		require.Equal(t, http.StatusBadRequest, serve(f, c.request(t)).Code)
	}, withKeys(&ring{}, key))
}

func TestAKeyInAnActionIsAFault(t *testing.T) {
	t.Parallel()
	f, key := setup(t), apikey.New()
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte(key+":"))
	for _, row := range []struct{ pointer, body string }{
		{"/actions/0/headers/Authorization", `"path":"/","headers":{"Authorization":"Bearer ` + key + `"}`},
		{"/actions/0/headers/Authorization", `"path":"/","headers":{"Authorization":"` + basic + `"}`},
		{"/actions/0/headers/X-A", `"path":"/","headers":{"X-A":["1","` + key + `"]}`},
		{"/actions/0/path", `"path":"/` + key + `"`},
		{"/actions/0/path", `"path":"/` + strings.Replace(key, "_", "%5F", 1) + `"`},
		{"/actions/0/query", `"path":"/","query":{"token":"` + key + `"}`},
		{"/actions/0/body", `"path":"/","body":{"a":"` + key + `"}`},
		{"/actions/0/body", `"path":"/","body":{"a":"` + strings.Replace(key, "_", `\u005f`, 1) + `"}`},
		{"/actions/0/body", `"path":"/","body":{"hook":{"authorization":"` + basic + `"}}`},
		{"/actions/0/body", `"path":"/","body_text":"token=` + strings.Replace(key, "_", "%5F", 1) + `"`},
		{"/actions/0/query", `"path":"/?discount=100%&token=` + strings.Replace(key, "_", "%5F", 1) + `"`},
		{"/actions/0/id", `"path":"/","id":"` + key + `"`},
		{"/actions/0/group", `"path":"/","group":"` + strings.Replace(key, "_", "%5F", 1) + `"`},
		{"/actions/0/undo/body", `"path":"/","group":"g","undo":{"method":"POST","path":"/","body":{"a":"` + basic + `"}}`},
		{"/actions/0/undo/headers/X-A", `"path":"/","group":"g","undo":{"method":"DELETE","path":"/","headers":{"X-A":"` + key + `"}}`},
	} {
		w := serve(f, call{method: "POST", path: "/batch", body: `{"target":"crm","actions":[{"method":"POST",` + row.body + `}]}`}.request(t))
		p := requireProblem(t, w, http.StatusBadRequest)
		require.Equal(t, row.pointer, p.Errors[0].Pointer, "%s", w.Body)
		require.Contains(t, p.Errors[0].Detail, "a key of batchd")
		require.NotContains(t, w.Body.String(), key[:20])
	}
	w := f.do(t, call{method: "POST", path: "/batch", body: `{"target":"crm","actions":[{"method":"GET","path":"/"}],"webhook":{"url":"https://example.com/?k=` + key + `"}}`})
	require.Contains(t, requireProblem(t, w, http.StatusBadRequest).Errors[0].Detail, "a key of batchd")
	for _, metadata := range []string{`"k":"` + key + `"`, `"` + key + `":"v"`, `"k":"` + basic + `"`} {
		w := f.do(t, call{method: "POST", path: "/batch", body: `{"target":"crm","metadata":{` + metadata + `},"actions":[{"method":"GET","path":"/"}]}`})
		require.Contains(t, requireProblem(t, w, http.StatusBadRequest).Errors[0].Detail, "a key of batchd", metadata)
	}
	w = f.do(t, call{method: "POST", path: "/batch?metadata.k=" + key, headers: []string{"Content-Type: application/x-ndjson"}, body: `{"method":"GET","path":"/"}`})
	require.Contains(t, requireProblem(t, w, http.StatusBadRequest).Errors[0].Detail, "a key of batchd")
	require.Zero(t, f.store.holds())
	require.NotContains(t, f.log.String(), key[:20])
}

func TestKeysHaveScopesAndTargets(t *testing.T) {
	t.Parallel()
	all, read := apikey.New(), apikey.New()
	r := &ring{keys: []batch.Key{
		{Name: "read", Owner: "alice", Scopes: []string{"read"}, Secrets: []batch.KeySecret{{SHA256: apikey.HexHash(read)}}},
	}}
	f := setup(t, withKeys(r, all))
	id := f.created(t, call{body: two, headers: []string{"X-Batchd-Key: " + all, "Authorization: Basic Zm9v"}})
	require.Contains(t, headerText(f.store.stored(id)[0].Headers), "Basic Zm9v", "it is meant for the target")
	require.Equal(t, http.StatusOK, f.do(t, call{method: "GET", path: "/batch/" + id, headers: []string{"Authorization: Bearer " + read}}).Code)
	requireProblem(t, f.do(t, call{method: "DELETE", path: "/batch/" + id, headers: []string{"Authorization: Bearer " + read}}), http.StatusForbidden)
	requireProblem(t, f.do(t, call{method: "POST", path: "/batch", body: two, headers: []string{"Authorization: Bearer " + read}}), http.StatusForbidden)
	requireProblem(t, f.do(t, call{method: "GET", path: "/batch/" + id, headers: []string{"Authorization: Bearer " + apikey.New()}}), http.StatusUnauthorized)
	requireProblem(t, f.do(t, call{method: "GET", path: "/batch/" + id, headers: []string{"Authorization: Bearer key:alice"}}), http.StatusNotFound)
}

func TestAnAuthorizationForTheTargetNeedsSealing(t *testing.T) {
	t.Parallel()
	key, r := apikey.New(), &ring{}
	f := setup(t, withKeys(r, key), func(c *Config) { c.Auth.Modes, c.Sealed = []auth.Mode{auth.ModeKeys}, false })
	w := f.do(t, call{method: "POST", path: "/batch", body: two, headers: []string{"X-Batchd-Key: " + key, "Authorization: Basic Zm9v"}})
	require.Contains(t, requireProblem(t, w, http.StatusBadRequest).Errors[0].Detail, "seal.keys")
	f.created(t, call{body: two, headers: []string{"Authorization: Bearer " + key}})
}

func TestARevocationEndsStreamsAndWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		key, r := apikey.New(), &ring{}
		f := setup(t, withKeys(r, key))
		id := f.created(t, call{body: two, headers: []string{"X-Batchd-Key: " + key}})
		time.AfterFunc(time.Second, func() { r.set(nil, 1) })
		start := time.Now()
		done := make(chan int, 2)
		go func() {
			done <- serve(f, call{method: "GET", path: "/batch/" + id + "/events", headers: []string{"X-Batchd-Key: " + key}}.request(t)).Code
		}()
		go func() {
			done <- serve(f, call{method: "GET", path: "/batch/" + id, headers: []string{"X-Batchd-Key: " + key, "Prefer: wait=60"}}.request(t)).Code
		}()
		codes := []int{<-done, <-done}
		require.ElementsMatch(t, []int{http.StatusOK, http.StatusUnauthorized}, codes)
		require.Less(t, time.Since(start), 7*time.Second)
	})
}

// slowReader is a client that reads a part of an answer, and the rest later.
type slowReader struct {
	*httptest.ResponseRecorder
	later func() // after the first part
}

func (s *slowReader) Write(p []byte) (int, error) {
	n, err := s.ResponseRecorder.Write(p)
	if s.later != nil {
		s.later()
		s.later = nil
	}
	return n, err
}

// Nothing more of an answer is sent than what was being written when the key was revoked.
func TestARevocationEndsAnswersThatAreRead(t *testing.T) {
	t.Parallel()
	for path, media := range map[string][]string{"/results": {mediaNDJSON, mediaJSON}, "": {mediaJSON}} {
		for _, accept := range media {
			synctest.Test(t, func(t *testing.T) {
				key, r := apikey.New(), &ring{}
				f := setup(t, withKeys(r, key))
				f.store.run = func(int, *batch.Action) *batch.Result { return succeeded(`"` + strings.Repeat("x", 2000) + `"`) }
				id := f.created(t, call{body: actions(900), headers: []string{"X-Batchd-Key: " + key}})
				get := func(later func()) (w *httptest.ResponseRecorder, cut bool) {
					w = httptest.NewRecorder()
					defer func() { cut = recover() != nil }()
					f.Handler().ServeHTTP(&slowReader{w, later}, call{method: "GET", path: "/batch/" + id + path, headers: []string{"X-Batchd-Key: " + key, "Accept: " + accept}}.request(t))
					return w, false
				}
				whole, cut := get(nil)
				require.False(t, cut)
				require.Greater(t, whole.Body.Len(), 900*2000)
				part, cut := get(func() {
					r.set(nil, 1)
					time.Sleep(5 * time.Second)
				})
				require.True(t, cut, "the client notices that the answer is not whole")
				require.LessOrEqual(t, part.Body.Len(), pieceBytes)
				require.Positive(t, part.Body.Len())
			})
		}
	}
}
