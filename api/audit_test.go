package api

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/api/auth"
	"github.com/batchd/batchd/internal/apikey"
	"github.com/batchd/batchd/internal/audit"
	"github.com/batchd/batchd/internal/certs/certstest"
)

// recorded gives a server an audit log, and returns a function that returns its new lines.
func recorded(t *testing.T) (option func(*Config), news func() []audit.Event, text func() string) {
	t.Helper()
	out, read := &syncBuffer{}, 0
	log, err := audit.Open(audit.Config{Output: audit.Stdout}, out, slog.New(slog.DiscardHandler), nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, log.Close()) })
	news = func() (events []audit.Event) {
		all := out.String()
		for line := range strings.Lines(all[read:]) {
			var e audit.Event
			dec := json.NewDecoder(strings.NewReader(line))
			dec.DisallowUnknownFields()
			require.NoError(t, dec.Decode(&e), line)
			events = append(events, e)
		}
		read = len(all)
		return events
	}
	return func(c *Config) { c.Audit = log }, news, out.String
}

var alice = &auth.Principal{Mode: auth.ModeKeys, Name: "ci", Owner: "key:alice", Scopes: auth.Scopes{auth.Submit, auth.Read, auth.Cancel}}

func TestARouteWithoutADecisionAboutTheAuditLogIsRefused(t *testing.T) {
	t.Parallel()
	f := setup(t, everyDialect)
	require.ErrorContains(t, f.mount(gin.New(), &route{method: "GET", path: "/x", scope: auth.Read, handle: f.list}), "GET /x has no decision about the audit log")
	engine, err := f.routes()
	require.NoError(t, err)
	for _, r := range engine.Routes() {
		d, ok := f.decisions[r.Method+" "+r.Path]
		require.True(t, ok, r)
		// What changes something, or shows results or a secret, always leaves a line.
		changes := r.Method == http.MethodPost || r.Method == http.MethodDelete && (strings.HasPrefix(r.Path, "/batch") || r.Path == "/session") || r.Path == auth.CallbackPath
		shows := r.Method == http.MethodGet && (strings.HasSuffix(r.Path, "/results") || strings.Contains(r.Path, "secret"))
		require.Equal(t, changes || shows, d.event != audit.Unaudited && !d.quiet, "%s %s", r.Method, r.Path)
	}
}

func TestEachRequestLeavesOneLine(t *testing.T) {
	t.Parallel()
	option, news, _ := recorded(t)
	f := setup(t, everyDialect, option)
	bodies := map[string]string{
		"/batch": two, "/crm/batch": `{"actions":[{"method":"GET","path":"/"}]}`, "/asana/batch": `{"data":{"actions":[{"method":"GET","relative_path":"/a"}]}}`,
		"/requests/batch": `{"requests":[{"method":"GET","path":"/a"}]}`, "/v1/instances/i/batch": `{"requests":[{"method":"GET","path":"/v1.1/instances/i/a"}]}`,
		"/primaerp/batch": `[{"method":"GET","url":"/a"}]`,
	}
	for _, principal := range []*auth.Principal{alice, nil, {Mode: auth.ModeKeys, Name: "none", Owner: "key:none"}} {
		f.auth = only{principal}
		for i, r := range f.table() {
			id := "batch-unknown"
			if principal == alice && strings.Contains(r.path, ":id") {
				id = f.created(t, call{body: two})
				news()
			}
			path := strings.NewReplacer(":id", id, ":instance", "i").Replace(r.path)
			one := call{method: r.method, path: path}
			if strings.HasSuffix(path, "/events") {
				one.headers = []string{"Accept: application/json"} // refused at once
			}
			if body := bodies[strings.TrimSuffix(path, "/")]; r.method == http.MethodPost && body != "" {
				one.body, one.headers = body, []string{"Content-Type: application/json", "Prefer: respond-async"}
			}
			rq := one.request(t)
			rq.RemoteAddr = fmt.Sprintf("192.0.2.%d:1234", i) // its failures are counted apart
			w := serve(f, rq)
			found := news()
			what := fmt.Sprintf("%s %s as %+v: %d %s", r.method, r.path, principal, w.Code, w.Body)
			refused := r.scope != auth.Open && principal != alice
			if principal == nil && r.scope != auth.Open && r.audit == audit.Unaudited {
				require.Len(t, found, 1, what)
				require.Equal(t, audit.AuthFailed, found[0].Name)
				continue
			}
			if want := r.audit != audit.Unaudited && (!r.quiet || refused); !want {
				require.Empty(t, found, what)
				continue
			}
			require.Len(t, found, 1, what)
			e := found[0]
			require.Equal(t, w.Code, e.Status, what)
			require.Equal(t, r.method+" "+r.path, e.Route)
			require.Equal(t, w.Header().Get("X-Request-ID"), e.RequestID)
			require.Equal(t, rq.RemoteAddr, e.Client)
			if principal == nil || r.scope == auth.Open { // the client is not known yet
				require.Equal(t, audit.AuthFailed, e.Name, what)
				require.Equal(t, r.audit, e.Attempted)
				require.Equal(t, r.scope != auth.Open, e.Problem == unauthorized, what)
				continue
			}
			require.Equal(t, r.audit, e.Name, what)
			require.Equal(t, []string{principal.Name, "keys", principal.Owner}, []string{e.Actor, e.Mode, e.ActorOwner})
			require.Equal(t, w.Code < 400, e.Result == audit.OK, what)
			require.Equal(t, w.Code >= 400, e.Problem != "", what)
			if refused {
				require.Equal(t, kindForbidden.problem("").Type, e.Problem)
			} else if id != "batch-unknown" {
				require.Equal(t, id, e.Batch)
				require.Equal(t, w.Code != http.StatusNotFound, e.Owner == "key:alice", what)
			}
		}
	}
}

func TestASubmissionSaysWhatWasAccepted(t *testing.T) {
	t.Parallel()
	option, news, _ := recorded(t)
	f := setup(t, everyDialect, option)
	f.auth = only{alice}
	for range 2 {
		f.created(t, call{body: actions(3), headers: []string{"Idempotency-Key: k"}})
	}
	requireProblem(t, f.do(t, call{method: "POST", path: "/batch", body: `{"target":"crm","actions":[]}`, bad: true}), http.StatusBadRequest)
	found := news()
	require.Len(t, found, 3)
	for i, e := range found[:2] {
		require.Equal(t, audit.OK, e.Result)
		require.Equal(t, []any{3, "crm", i == 1, "key:alice"}, []any{e.Count, e.Target, e.Replayed, e.Owner})
		require.NotEmpty(t, e.Batch)
	}
	require.Equal(t, audit.Refused, found[2].Result)
	require.Equal(t, "urn:problem-type:batchd:invalid-batch", found[2].Problem)
	require.Empty(t, found[2].Batch)
	w := serve(f, call{method: "POST", path: "/asana/batch", body: `{"data":{"actions":[{"method":"GET","relative_path":"/a"}]}}`, headers: []string{"Prefer: respond-async", "Content-Type: application/json"}}.request(t))
	require.Equal(t, http.StatusAccepted, w.Code, "%s", w.Body)
	require.Equal(t, 1, news()[0].Count)
}

// The document of a small batch that has ended has its results.
func TestResultsAreReadAlsoInADocument(t *testing.T) {
	t.Parallel()
	option, news, _ := recorded(t)
	f := setup(t, option)
	f.auth = only{alice}
	id := f.created(t, call{body: actions(1)})
	news()
	require.Equal(t, http.StatusOK, f.do(t, call{method: "GET", path: "/batch/" + id}).Code)
	require.Empty(t, news(), "it still runs")
	f.store.finish(id, 0, succeeded(`{}`))
	require.Equal(t, http.StatusOK, f.do(t, call{method: "HEAD", path: "/batch/" + id}).Code)
	require.Equal(t, http.StatusOK, f.do(t, call{method: "HEAD", path: "/batch/" + id + "/results"}).Code)
	require.Empty(t, news())
	require.Equal(t, http.StatusOK, f.do(t, call{method: "GET", path: "/batch/" + id}).Code)
	require.Equal(t, http.StatusOK, f.do(t, call{method: "GET", path: "/batch/" + id + "/results"}).Code)
	found := news()
	require.Len(t, found, 2)
	require.Equal(t, []audit.Name{audit.BatchRead, audit.ResultsRead}, []audit.Name{found[0].Name, found[1].Name})
}

// An administrator acts on the batch of another owner, and lists the batches of all.
func TestTheOwnerOfABatchIsNotItsActor(t *testing.T) {
	t.Parallel()
	option, news, _ := recorded(t)
	f := setup(t, option)
	f.auth = only{alice}
	id := f.created(t, call{body: actions(1)})
	root := &auth.Principal{Mode: auth.ModeKeys, Name: "root", Owner: "key:root", Scopes: auth.AllScopes()}
	f.auth = only{root}
	news()
	for path, event := range map[string]audit.Name{
		"GET /batch/" + id: audit.BatchRead, "GET /batch/" + id + "/results": audit.ResultsRead, "GET /batch/" + id + "/webhook": audit.DeliveriesRead,
		"POST /batch/" + id + "/cancel": audit.BatchCancel,
	} {
		method, path, _ := strings.Cut(path, " ")
		w := serve(f, call{method: method, path: path}.request(t))
		found := news()
		if w.Code == http.StatusNotFound { // no webhook
			require.Empty(t, found)
			continue
		}
		require.Len(t, found, 1, "%s %s", method, path)
		require.Equal(t, []any{event, "root", "key:root", "key:alice", id}, []any{found[0].Name, found[0].Actor, found[0].ActorOwner, found[0].Owner, found[0].Batch})
	}
	for path, owner := range map[string]string{"/batch": "", "/batch?owner=key:alice": "key:alice", "/batch?owner=key:root": "key:root", "/batch?owner=nobody": "nobody"} {
		require.Equal(t, http.StatusOK, f.do(t, call{method: "GET", path: path}).Code)
		found := news()
		require.Len(t, found, 1)
		require.Equal(t, []any{audit.BatchList, audit.OK, "key:root", owner}, []any{found[0].Name, found[0].Result, found[0].ActorOwner, found[0].Owner}, path)
	}
}

// The stream of another owner's batch may last for days.
func TestAStreamOfAnotherOwnerIsRecordedWhenItBegins(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		option, news, _ := recorded(t)
		f := setup(t, option)
		f.auth = only{alice}
		id := f.created(t, call{body: actions(1)})
		news()
		stream := func(p *auth.Principal) (end func()) {
			f.auth = only{p}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() {
				defer close(done)
				serve(f, call{method: "GET", path: "/batch/" + id + "/events"}.request(t).WithContext(ctx))
			}()
			time.Sleep(time.Minute)
			return func() {
				cancel()
				<-done
			}
		}
		end := stream(&auth.Principal{Mode: auth.ModeKeys, Name: "root", Owner: "key:root", Scopes: auth.AllScopes()})
		found := news()
		require.Len(t, found, 1)
		require.Equal(t, []any{audit.BatchEvents, audit.OK, "key:root", "key:alice", id, 200}, []any{found[0].Name, found[0].Result, found[0].ActorOwner, found[0].Owner, found[0].Batch, found[0].Status})
		end()
		require.Empty(t, news(), "there is one line of a stream")
		stream(alice)()
		require.Empty(t, news(), "it is the owner's")
	})
}

// With passthrough every client can invent a credential, which batchd has not checked.
func TestInventedCredentialsDoNotFloodTheAuditLog(t *testing.T) {
	t.Parallel()
	option, news, _ := recorded(t)
	f := setup(t, option, passthrough)
	for n := range 200 {
		credential := fmt.Sprintf("Authorization: Bearer invented-%d", n)
		for path, status := range map[string]int{
			"GET /batch/none/results": http.StatusNotFound, "POST /batch/none/cancel": http.StatusNotFound, "DELETE /batch/none": http.StatusNotFound, "POST /batch": http.StatusUnsupportedMediaType,
		} {
			method, path, _ := strings.Cut(path, " ")
			require.Equal(t, status, serve(f, call{method: method, path: path, headers: []string{credential}}.request(t)).Code)
		}
	}
	found := news()
	require.NotEmpty(t, found)
	require.LessOrEqual(t, len(found), 10)
	for _, e := range found {
		require.Contains(t, []audit.Name{audit.ResultsRead, audit.BatchCancel, audit.BatchDelete, audit.BatchSubmit}, e.Name)
		require.Equal(t, audit.Refused, e.Result)
		require.NotEmpty(t, e.ActorOwner)
	}
	for range 20 {
		f.created(t, call{body: two, headers: []string{"Authorization: Bearer alice"}})
	}
	require.Len(t, news(), 20, "what is done is recorded")
}

func TestTheAuditLogHasNoSecrets(t *testing.T) {
	t.Parallel()
	const canary = "canary-5up3r53cr3t"
	option, news, text := recorded(t)
	f := setup(t, everyDialect, passthrough, option, func(c *Config) {
		c.Owner = func(_ context.Context, credential string) (string, error) {
			sum := sha256.Sum256([]byte(credential))
			return hex.EncodeToString(sum[:]), nil
		}
	})
	for _, r := range f.table() {
		for _, id := range []string{"batch-1", "%0a%22" + canary, "batch-1%2F" + canary} {
			path := strings.NewReplacer(":id", id, ":instance", canary).Replace(r.path)
			if strings.HasSuffix(path, "/events") {
				continue // it does not end
			}
			for _, headers := range [][]string{
				{"Authorization: Bearer " + canary},
				{"Authorization: " + canary, "X-Batchd-Key: " + canary, "X-API-Key: " + canary, "X-User-Key: " + canary, "Cookie: s=" + canary},
				{"X-Request-ID: a\"" + canary, "User-Agent: \n" + canary, "Referer: http://" + canary, "Idempotency-Key: " + canary, "Origin: http://" + canary, "X-Forwarded-For: " + canary},
				{"Authorization: Bearer a", "Prefer: respond-async"},
			} {
				body := strings.Replace(two, "{", `{"webhook":{"url":"https://u:`+canary+`@example.com/`+canary+`?t=`+canary+`"},"metadata":{"k":"`+canary+`"},`, 1)
				rq := call{method: r.method, path: path + "?token=" + canary + "&x=" + canary, body: body}.request(t)
				for _, h := range headers {
					name, value, _ := strings.Cut(h, ": ")
					rq.Header.Set(name, value)
				}
				serve(f, rq)
			}
		}
	}
	require.NotEmpty(t, news())
	require.NotContains(t, text(), canary)
}

func TestRequestsWithoutACredentialDoNotFloodTheAuditLog(t *testing.T) {
	t.Parallel()
	option, news, _ := recorded(t)
	f := setup(t, option, everyDialect)
	f.auth = only{}
	for range 200 {
		for _, path := range []string{"/batch", "/asana/batch", "/v1/instances/i/batch", "/primaerp/batch"} {
			require.GreaterOrEqual(t, serve(f, call{method: "POST", path: path, body: two}.request(t)).Code, 400)
		}
	}
	require.LessOrEqual(t, len(news()), 10)
	f.auth = only{alice}
	for range 50 {
		f.created(t, call{body: two})
	}
	require.Len(t, news(), 50, "those of owners are complete")

	// What the guard refuses has no known client behind it either.
	option, news, _ = recorded(t)
	f = setup(t, option)
	for range 200 {
		require.Equal(t, http.StatusForbidden, serve(f, call{method: "POST", path: "/batch", body: two, headers: []string{"Origin: https://evil.example"}}.request(t)).Code)
	}
	found := news()
	require.LessOrEqual(t, len(found), 10)
	require.Equal(t, kindCrossSite.problem("").Type, found[0].Problem)
	require.Equal(t, audit.BatchSubmit, found[0].Attempted)
}

func TestTheCertificateOfAClientIsInTheAuditLog(t *testing.T) {
	t.Parallel()
	option, news, _ := recorded(t)
	ca, files := secured(t)
	clients := certstest.New(t, "clients")
	cert, key := clients.Pair(t, "robot\n7", 1<<40)
	both, err := tls.X509KeyPair(cert, key)
	require.NoError(t, err)
	f := setup(t, option, files, func(c *Config) {
		c.Server.TLS.ClientCAFile = certstest.Write(t, t.TempDir(), "clients.pem", clients.PEM)
		c.Auth.Modes = []auth.Mode{auth.ModePassthrough}
		c.Owner = func(_ context.Context, credential string) (string, error) { return credential, nil }
	})
	addr, stop := f.running(t)
	conn := dialTLS(t, addr, &tls.Config{RootCAs: ca.Pool(), Certificates: []tls.Certificate{both}})
	fmt.Fprintf(conn, "GET /batch/none/results HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a\r\nConnection: close\r\n\r\n")
	_, err = http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	require.NoError(t, stop())
	found := news()
	require.Len(t, found, 1)
	require.Equal(t, "CN=robot\n7", found[0].Certificate)
	require.Equal(t, conn.LocalAddr().String(), found[0].Client)
}

func TestSignInsAndSignOutsAreNoFailures(t *testing.T) {
	t.Parallel()
	option, news, _ := recorded(t)
	key := apikey.New()
	f := setup(t, withSessions(&ring{}, key, nil, &sessionMap{}), option)
	var cookie string
	for range 14 { // more than failures of one address have lines
		cookie = signIn(t, f, key)
	}
	found := news()
	require.Len(t, found, 14)
	for _, e := range found {
		require.Equal(t, []any{audit.SessionCreate, audit.OK, "keys", "all", "key:alice"}, []any{e.Name, e.Result, e.Mode, e.Actor, e.ActorOwner})
	}
	for _, cookie := range []string{cookie, cookie, "X-None: 1"} {
		require.Equal(t, http.StatusNoContent, visit(t, f, call{method: "DELETE", path: "/session", headers: []string{cookie}}).Code)
	}
	found = news()
	require.Len(t, found, 1, "there was one session")
	require.Equal(t, []any{audit.SessionEnd, audit.OK, "keys", "all", "key:alice"}, []any{found[0].Name, found[0].Result, found[0].Mode, found[0].Actor, found[0].ActorOwner})
	require.Equal(t, http.StatusUnauthorized, visit(t, f, call{method: "POST", path: "/session", body: `{"key":"` + apikey.New() + `"}`}).Code)
	found = news()
	require.Len(t, found, 1)
	require.Equal(t, []any{audit.AuthFailed, audit.SessionCreate, audit.Refused}, []any{found[0].Name, found[0].Attempted, found[0].Result})
}

// What a client has read is recorded, however the answer ended.
func TestAnswersThatBreakOffAreAllRecorded(t *testing.T) {
	t.Parallel()
	option, news, _ := recorded(t)
	f := setup(t, option, passthrough)
	e := gin.New()
	e.Use(f.observe, f.recoverPanic)
	require.NoError(t, f.mount(e, &route{method: "GET", path: "/half", scope: auth.Read, audit: audit.ResultsRead, noHead: true, handle: func(c *gin.Context) error {
		_, _ = c.Writer.Write([]byte("half"))
		c.Writer.Flush()
		return bytes.ErrTooLarge
	}}))
	for range 20 {
		require.Panics(t, func() {
			e.ServeHTTP(httptest.NewRecorder(), call{method: "GET", path: "/half", headers: []string{"Authorization: Bearer alice"}}.request(t))
		})
	}
	found := news()
	require.Len(t, found, 20)
	require.Equal(t, []any{audit.ResultsRead, audit.Aborted}, []any{found[19].Name, found[19].Result})
}
