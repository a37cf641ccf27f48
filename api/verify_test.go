package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/api/auth"
	"github.com/batchd/batchd/internal/apikey"
	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/oidctest"
)

// asked is a target that is asked about credentials. It implements [batch.Dispatcher].
type asked struct {
	batch.Dispatcher

	// answer answers; the default is 200.
	answer func(r *batch.Request) *batch.Response

	mu        sync.Mutex
	questions []*batch.Request
	now, most int
}

func (a *asked) Do(_ context.Context, r *batch.Request) *batch.Response {
	a.mu.Lock()
	a.questions = append(a.questions, r)
	a.now++
	a.most = max(a.most, a.now)
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.now--
	}()
	if a.answer == nil {
		return says(http.StatusOK)
	}
	return a.answer(r)
}

// count returns the number of questions.
func (a *asked) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.questions)
}

func says(status int) *batch.Response {
	return &batch.Response{Result: batch.Result{Status: status}}
}

// verifying makes a server in the mode passthrough ask crm about credentials, but not billing.
func verifying(a *asked) func(*Config) {
	return func(c *Config) {
		passthrough(c)
		c.Owner = func(_ context.Context, credential string) (string, error) {
			sum := sha256.Sum256([]byte(credential))
			return "hash:" + hex.EncodeToString(sum[:]), nil
		}
		c.Policies = []batch.Target{{Name: "crm", Verify: &batch.Call{Method: "GET", Path: "/me"}}, {Name: "billing"}}
		c.Verifier = a
	}
}

// sent describes a request about a credential.
func sent(r *batch.Request) string {
	a := r.Action
	return fmt.Sprintf("%s %s %s?%s %s%s", r.Target, a.Method, a.Path, a.Query, headerText(a.Headers), a.Body)
}

func nativeCall(credential string) call {
	return call{method: "POST", path: "/batch", body: two, headers: []string{"Authorization: Bearer " + credential, "Prefer: respond-async"}}
}

// eachEntrance runs a test for each way to submit a batch to crm: the native ones and the dialects.
func eachEntrance(t *testing.T, a func() *asked, test func(t *testing.T, f *fixture, a *asked, c call, question string)) {
	t.Helper()
	bearer := "crm GET /me? " + headerText([]batch.Field{{Name: "Authorization", Value: "Bearer alice"}})
	questions := map[string]string{
		"syncano":  "crm GET /me? " + headerText([]batch.Field{{Name: "X-API-KEY", Value: "alice"}}),
		"primaerp": "crm GET /me?token=alice ",
	}
	ndjson := call{method: "POST", path: "/batch?target=crm", headers: []string{"Authorization: Bearer alice", "Content-Type: application/x-ndjson"}, body: `{"method":"GET","path":"/a"}` + "\n"}
	calls := map[string]call{
		"json":     nativeCall("alice"),
		"ndjson":   ndjson,
		"endpoint": {method: "POST", path: "/native", body: actionsOnly, headers: []string{"Authorization: Bearer alice"}},
	}
	for name, d := range foreigners() {
		calls[name] = d.call("Prefer: respond-async")
	}
	for name, c := range calls {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				question := questions[name]
				if question == "" {
					question = bearer
				}
				target := a()
				f := setup(t, endpoints, func(c *Config) { c.Endpoints = append(c.Endpoints, Endpoint{Path: "/native", Target: "crm"}) }, verifying(target))
				test(t, f, target, c, question)
			})
		})
	}
}

func TestACredentialThatTheTargetRefusesStoresNothing(t *testing.T) {
	t.Parallel()
	for _, status := range []int{http.StatusUnauthorized, http.StatusForbidden} {
		refusing := func() *asked {
			return &asked{answer: func(*batch.Request) *batch.Response { return says(status) }}
		}
		eachEntrance(t, refusing, func(t *testing.T, f *fixture, a *asked, c call, _ string) {
			t.Helper()
			w := serve(f, c.request(t))
			require.Equal(t, http.StatusUnauthorized, w.Code, "%s", w.Body)
			require.Contains(t, w.Body.String(), fmt.Sprintf("the target crm refuses the credential (%d): send a valid one; nothing was stored", status))
			require.Equal(t, `Bearer realm="batchd"`, w.Header().Get("WWW-Authenticate"))
			require.Equal(t, 1, a.count())
			require.Zero(t, f.store.opens)
			require.Zero(t, f.store.holds())
		})
	}
}

func TestACredentialThatIsNotSentStoresNothing(t *testing.T) {
	t.Parallel()
	blocked := batch.Response{Unsent: true, Result: batch.Result{Error: &batch.Failure{Code: batch.CodeBlocked, Message: `target "crm": not sent: the scheme NTLM is refused`}}}
	refusing := func() *asked {
		return &asked{answer: func(*batch.Request) *batch.Response { return &blocked }}
	}
	eachEntrance(t, refusing, func(t *testing.T, f *fixture, _ *asked, c call, _ string) {
		t.Helper()
		w := serve(f, c.request(t))
		require.Equal(t, http.StatusUnauthorized, w.Code, "%s", w.Body)
		require.Contains(t, w.Body.String(), "the scheme NTLM is refused; nothing was stored")
		require.Zero(t, f.store.opens)
	})
}

func TestTheTargetIsAskedWithTheCredentialAlone(t *testing.T) {
	t.Parallel()
	eachEntrance(t, func() *asked { return &asked{} }, func(t *testing.T, f *fixture, a *asked, c call, question string) {
		t.Helper()
		c.headers = append(c.headers, "Cookie: a=b", "X-Other: 1", "Idempotency-Key: k")
		w := serve(f, c.request(t))
		require.Equal(t, http.StatusAccepted, w.Code, "%s", w.Body)
		require.Len(t, a.questions, 1)
		require.Equal(t, question, sent(a.questions[0]))
		require.True(t, a.questions[0].Call)
		require.Equal(t, f.store.batches["batch-1"].Owner, a.questions[0].Owner)
		require.Len(t, f.store.batches, 1)
	})
}

func TestATargetThatCannotSayRefusesForNow(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		resp  batch.Response
		after string
	}{
		"500":       {*says(http.StatusInternalServerError), "2"},
		"404":       {*says(http.StatusNotFound), "2"},
		"redirect":  {*says(http.StatusFound), "2"},
		"429":       {batch.Response{Result: batch.Result{Status: http.StatusTooManyRequests}, After: 30 * time.Second}, "30"},
		"for hours": {batch.Response{Result: batch.Result{Status: http.StatusServiceUnavailable}, After: 3 * time.Hour}, "60"},
		"timeout":   {batch.Response{Result: batch.Result{Error: &batch.Failure{Code: batch.CodeTimeout, Message: "no answer within 10s"}}}, "2"},
		"broken":    {batch.Response{Result: batch.Result{Status: http.StatusOK, Error: &batch.Failure{Code: batch.CodeReset, Message: "it broke off"}}}, "2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			away := func() *asked {
				return &asked{answer: func(*batch.Request) *batch.Response { return &test.resp }}
			}
			eachEntrance(t, away, func(t *testing.T, f *fixture, _ *asked, c call, _ string) {
				t.Helper()
				w := serve(f, c.request(t))
				require.Equal(t, http.StatusServiceUnavailable, w.Code, "%s", w.Body)
				require.Contains(t, w.Body.String(), "the target crm cannot say now whether the credential is good: try again later; nothing was stored")
				require.Equal(t, test.after, w.Header().Get("Retry-After"))
				require.Zero(t, f.store.opens)
				why := fmt.Sprintf("it answered %d", test.resp.Result.Status)
				if failure := test.resp.Result.Error; failure != nil {
					why = failure.Message
				}
				require.Contains(t, f.log.String(), "nothing was stored: "+why, "the log has the reason")
				require.NotContains(t, w.Body.String(), why, "the answer does not")
			})
		})
	}
}

func TestAnAnswerAboutACredentialCountsForAWhile(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		says  batch.Response
		lasts time.Duration
	}{
		{*says(http.StatusNoContent), time.Minute},
		{*says(http.StatusUnauthorized), 10 * time.Second},
		{*says(http.StatusForbidden), 10 * time.Second},
		{*says(http.StatusBadGateway), 2 * time.Second},
		{batch.Response{Result: batch.Result{Status: http.StatusTooManyRequests}, After: 7 * time.Second}, 7 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			a := &asked{answer: func(*batch.Request) *batch.Response { return &test.says }}
			f := setup(t, verifying(a))
			first := serve(f, nativeCall("alice").request(t)).Code
			time.Sleep(test.lasts - time.Millisecond)
			require.Equal(t, first, serve(f, nativeCall("alice").request(t)).Code)
			require.Equal(t, 1, a.count())
			time.Sleep(time.Millisecond)
			require.Equal(t, first, serve(f, nativeCall("alice").request(t)).Code)
			require.Equal(t, 2, a.count())
			require.Equal(t, first, serve(f, nativeCall("alice").request(t)).Code)
			require.Equal(t, 2, a.count(), "the new answer counts, too")
		})
	}
}

func TestACredentialThatIsRefusedLaterIsNoLongerGood(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		status := http.StatusOK
		a := &asked{answer: func(*batch.Request) *batch.Response { return says(status) }}
		f := setup(t, verifying(a))
		for _, status = range []int{http.StatusOK, http.StatusUnauthorized, http.StatusBadGateway, http.StatusOK} {
			want := map[int]int{http.StatusOK: http.StatusAccepted, http.StatusUnauthorized: http.StatusUnauthorized, http.StatusBadGateway: http.StatusServiceUnavailable}[status]
			require.Equal(t, want, serve(f, nativeCall("alice").request(t)).Code)
			time.Sleep(time.Minute)
		}
		require.Len(t, f.store.batches, 2)
	})
}

func TestSubmissionsAtOnceShareAQuestion(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		a := &asked{answer: func(*batch.Request) *batch.Response { <-release; return says(http.StatusOK) }}
		f := setup(t, endpoints, verifying(a))
		var all sync.WaitGroup
		ctx, hangUp := context.WithCancel(t.Context())
		all.Go(func() { // the first, whose client does not wait for the answer
			serve(f, nativeCall("alice").request(t).WithContext(ctx))
		})
		synctest.Wait()
		codes := make([]int, 100)
		for i := range codes {
			all.Go(func() { codes[i] = serve(f, nativeCall("alice").request(t)).Code })
		}
		synctest.Wait()
		hangUp()
		synctest.Wait()
		require.Equal(t, 1, a.count())
		require.Zero(t, f.store.opens, "nothing is stored while the target is asked")
		close(release)
		all.Wait()
		for _, code := range codes {
			require.Equal(t, http.StatusAccepted, code)
		}
		require.Len(t, f.store.batches, 100)
		require.Equal(t, http.StatusAccepted, serve(f, nativeCall("bob").request(t)).Code)
		require.Equal(t, 2, a.count(), "another credential")
		require.Equal(t, http.StatusAccepted, serve(f, foreigners()["requests"].call("Prefer: respond-async").request(t)).Code)
		require.Equal(t, 3, a.count(), "another owner by the same credential")
	})
}

// The same question is not asked about the scheme in another case, which identifies the same owner.
func TestAQuestionIsAboutAnOwner(t *testing.T) {
	t.Parallel()
	a := &asked{}
	f := setup(t, verifying(a))
	c := nativeCall("alice")
	f.created(t, c)
	c.headers[0] = "Authorization: BEARER  alice"
	f.created(t, c)
	require.Equal(t, 1, a.count())
}

func TestTheCredentialItselfIsNotKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		statuses := map[string]int{"Bearer alice-hunter2": http.StatusOK, "Bearer bob-hunter2": http.StatusUnauthorized, "Bearer eve-hunter2": http.StatusTeapot}
		a := &asked{answer: func(r *batch.Request) *batch.Response {
			value, _ := r.Action.Header("Authorization")
			return says(statuses[value])
		}}
		f := setup(t, verifying(a))
		for _, name := range []string{"alice-hunter2", "bob-hunter2", "eve-hunter2"} {
			serve(f, nativeCall(name).request(t))
		}
		require.Len(t, f.verifier.good, 1)
		require.Len(t, f.verifier.others, 2)
		for _, known := range []verdicts{f.verifier.good, f.verifier.others} {
			for owner, d := range known {
				require.True(t, strings.HasPrefix(owner, "hash:"), owner)
				require.NotContains(t, fmt.Sprint(d.err), "hunter2")
			}
		}
		require.NotContains(t, f.log.String(), "hunter2")
		require.NotContains(t, metricsOf(t, f), "hunter2")
	})
}

// metricsOf returns all metrics, which the API itself shows only to admins.
func metricsOf(t *testing.T, f *fixture) string {
	t.Helper()
	w := httptest.NewRecorder()
	promhttp.HandlerFor(f.metrics.registry, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	return w.Body.String()
}

func TestQuestionsAreCountedByTheirResults(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := &asked{answer: func(r *batch.Request) *batch.Response {
			value, _ := r.Action.Header("Authorization")
			return says(map[string]int{"Bearer good": 200, "Bearer bad": 403, "Bearer other": 500}[value])
		}}
		f := setup(t, verifying(a))
		require.Contains(t, metricsOf(t, f), `batchd_credential_checks_total{result="bad",target="crm"} 0`, "before the first question")
		for _, name := range []string{"good", "bad", "other", "good", "bad"} {
			serve(f, nativeCall(name).request(t))
		}
		found := metricsOf(t, f)
		for _, result := range []string{"good", "bad", "unknown"} {
			require.Contains(t, found, `batchd_credential_checks_total{result="`+result+`",target="crm"} 1`)
		}
		require.NotContains(t, found, `batchd_credential_checks_total{result="good",target="billing"}`)
	})
}

// askFrom submits with a credential, from an address.
func askFrom(t *testing.T, f *fixture, address, credential string) *httptest.ResponseRecorder {
	t.Helper()
	r := nativeCall(credential).request(t)
	r.RemoteAddr = address + ":1000"
	return serve(f, r)
}

func TestQuestionsOfAnAddressAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		a := &asked{answer: func(r *batch.Request) *batch.Response {
			if value, _ := r.Action.Header("Authorization"); strings.Contains(value, "good") {
				return says(http.StatusOK)
			}
			<-release
			return says(http.StatusUnauthorized)
		}}
		f := setup(t, verifying(a), func(c *Config) { c.Limits.Capacity.CredentialChecksPerAddress = 3 })
		require.Equal(t, http.StatusAccepted, askFrom(t, f, "203.0.113.7", "good").Code)
		var all sync.WaitGroup
		for i := range 3 {
			all.Go(func() { askFrom(t, f, "203.0.113.7", fmt.Sprint("invented", i)) })
		}
		synctest.Wait()
		w := askFrom(t, f, "203.0.113.7", "invented3")
		p := requireProblem(t, w, http.StatusTooManyRequests)
		require.Equal(t, "you have as many checks of credentials as one address may have at one time, which is 3", p.Detail)
		require.Equal(t, "1", w.Header().Get("Retry-After"))
		require.Equal(t, http.StatusTooManyRequests, askFrom(t, f, "203.0.113.7", "good2").Code, "a new credential waits its turn")
		require.Equal(t, http.StatusAccepted, askFrom(t, f, "203.0.113.7", "good").Code, "one that is known needs no question")
		require.Equal(t, http.StatusAccepted, askFrom(t, f, "203.0.113.8", "good3").Code, "another address is not affected")
		require.Equal(t, 3, a.now)
		close(release)
		all.Wait()
		time.Sleep(failedFor - time.Millisecond)
		require.Equal(t, http.StatusTooManyRequests, askFrom(t, f, "203.0.113.7", "good2").Code, "refused credentials count for a second more")
		time.Sleep(time.Millisecond)
		synctest.Wait()
		require.Equal(t, http.StatusAccepted, askFrom(t, f, "203.0.113.7", "good2").Code)
		require.Empty(t, f.verifier.addresses.owners)
		require.Zero(t, f.verifier.running.used)
		require.Len(t, f.store.batches, 4)
	})
}

func TestCredentialsThatAreNotAcceptedAreFewInASecond(t *testing.T) {
	t.Parallel()
	for _, status := range []int{http.StatusUnauthorized, http.StatusBadRequest} {
		synctest.Test(t, func(t *testing.T) {
			a := &asked{answer: func(*batch.Request) *batch.Response { return says(status) }}
			f := setup(t, verifying(a))
			for i := range 1000 {
				askFrom(t, f, "203.0.113.7", fmt.Sprint("invented", i))
				time.Sleep(10 * time.Millisecond)
				synctest.Wait()
			}
			require.InDelta(t, 80, a.count(), 8, "in 10 s")
		})
	}
}

func TestQuestionsInAllAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		a := &asked{answer: func(*batch.Request) *batch.Response { <-release; return says(http.StatusOK) }}
		f := setup(t, verifying(a), func(c *Config) {
			c.Limits.Capacity.CredentialChecks = 10
			c.Policies[1].Verify = &batch.Call{Method: "HEAD", Path: "/user"}
		})
		var all sync.WaitGroup
		ask := func(i int, target string) *http.Request {
			c := nativeCall("alice")
			c.body = strings.Replace(c.body, "crm", target, 1)
			c.headers[0] = fmt.Sprintf("Authorization: Bearer %d", i)
			r := c.request(t)
			r.RemoteAddr = fmt.Sprintf("203.0.113.%d:1000", i)
			return r
		}
		for i := range 5 {
			all.Go(func() { serve(f, ask(i, "crm")) })
		}
		synctest.Wait()
		w := serve(f, ask(100, "crm"))
		p := requireProblem(t, w, http.StatusServiceUnavailable)
		require.Contains(t, p.Detail, "as many credentials as it may at one time")
		require.Equal(t, "1", w.Header().Get("Retry-After"))
		for i := range 5 {
			all.Go(func() { serve(f, ask(i, "billing")) })
		}
		synctest.Wait()
		require.Equal(t, 10, a.count(), "one target leaves half to the others")
		require.Equal(t, http.StatusServiceUnavailable, serve(f, ask(101, "billing")).Code)
		require.Equal(t, 10, a.most)
		close(release)
		all.Wait()
		require.Equal(t, http.StatusAccepted, serve(f, ask(100, "crm")).Code)
		require.Len(t, f.store.batches, 11)
	})
}

func TestInventedCredentialsUseBoundedMemoryAndDisplaceNoGoodOnes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		status := http.StatusOK
		a := &asked{answer: func(*batch.Request) *batch.Response { return says(status) }}
		cfg := Config{Verifier: a, Limits: DefaultLimits()}
		verifying(a)(&cfg)
		v := newVerifier(&cfg, setup(t).metrics.checks)
		check := func(i int, kind string) error {
			r := &batch.Request{Target: "crm", Owner: fmt.Sprint(kind, i), Action: &batch.Action{}}
			return v.check(t.Context(), r, fmt.Sprint("address", i))
		}
		for i := range 100 {
			require.NoError(t, check(i, "good"))
		}
		status = http.StatusUnauthorized
		for i := range knownMost + 500 {
			require.Error(t, check(i, "invented"))
		}
		require.Len(t, v.others, knownMost)
		for i := range 100 {
			require.NoError(t, check(i, "good"))
		}
		require.Equal(t, knownMost+600, a.count())
		status = http.StatusOK
		for i := range knownMost + 500 {
			require.NoError(t, check(i, "more"))
		}
		require.LessOrEqual(t, len(v.good), knownMost)
		time.Sleep(failedFor)
		synctest.Wait()
		require.Empty(t, v.addresses.owners)
	})
}

// A question that a submission waits for stays, so that it is not asked twice.
func TestRoomIsMadeByAnswersThatNobodyWaitsFor(t *testing.T) {
	t.Parallel()
	now := time.Now()
	m := verdicts{"awaited": {}, "over": {until: now}}
	for i := range knownMost - 2 {
		m[fmt.Sprint(i)] = &verdict{until: now.Add(time.Hour)}
	}
	for i := range 100 {
		m.makeRoom(now)
		require.Len(t, m, knownMost-1)
		m[fmt.Sprint("new", i)] = &verdict{until: now.Add(time.Hour)}
		require.Contains(t, m, "awaited")
	}
}

func TestOnlyPassthroughAsks(t *testing.T) {
	t.Parallel()
	key, a := apikey.New(), &asked{}
	i := oidctest.Start(t)
	f := setup(t, endpoints, verifying(a), withJWT(i), func(c *Config) {
		c.Auth.Modes = []auth.Mode{auth.ModeKeys, auth.ModeJWT, auth.ModePassthrough}
		ring := &ring{}
		ring.keys = append(ring.keys, batch.Key{Name: "k", Owner: "k", Scopes: []string{"submit", "read", "cancel"}, Secrets: []batch.KeySecret{{SHA256: apikey.HexHash(key)}}})
		c.Keys = ring
	})
	token := i.Token("batchd", "alice", map[string]any{"scope": "submit read"})
	for _, credential := range []string{"X-Batchd-Key: " + key, "X-Batchd-Key: " + token} {
		c := nativeCall("alice")
		c.headers = append(c.headers, credential)
		require.Equal(t, http.StatusAccepted, serve(f, c.request(t)).Code)
		for _, d := range foreigners() {
			w := serve(f, d.call("Prefer: respond-async", credential).request(t))
			require.Equal(t, http.StatusAccepted, w.Code, "%s", w.Body)
		}
	}
	require.Zero(t, a.count())
	require.Equal(t, http.StatusAccepted, serve(f, nativeCall("alice").request(t)).Code)
	require.Equal(t, 1, a.count())

	none := setup(t, verifying(a), func(c *Config) { c.Auth.Modes = []auth.Mode{auth.ModeNone} })
	require.Equal(t, http.StatusAccepted, serve(none, nativeCall("bob").request(t)).Code)
	require.Equal(t, 1, a.count())
}

func TestOnlyATargetWithTheSettingIsAsked(t *testing.T) {
	t.Parallel()
	a := &asked{}
	f := setup(t, verifying(a))
	f.created(t, call{body: strings.Replace(two, "crm", "billing", 1), headers: []string{"Authorization: Bearer alice"}})
	require.Zero(t, a.count())
}

func TestOnlySubmissionsAsk(t *testing.T) {
	t.Parallel()
	eachEntrance(t, func() *asked { return &asked{} }, func(t *testing.T, f *fixture, a *asked, c call, _ string) {
		t.Helper()
		f.store.run = func(int, *batch.Action) *batch.Result { return &batch.Result{Outcome: batch.Failed, Status: 400} }
		w := serve(f, c.request(t))
		at := w.Header().Get("Location")
		require.NotEmpty(t, at, "%s", w.Body)
		require.Equal(t, 1, a.count())
		time.Sleep(time.Hour) // the answer no longer counts
		query := ""
		if _, found, ok := strings.Cut(c.path, "?"); ok && strings.HasPrefix(found, "token=") {
			query = "?" + found
		}
		for path, methods := range map[string][]string{
			at: {"GET", "HEAD", "DELETE"}, at + "/results": {"GET", "HEAD"}, at + "/cancel": {"POST"}, at + "/retry": {"POST"}, "/batch": {"GET", "HEAD"},
			at + "/webhook": {"GET"}, at + "/webhook/redeliver": {"POST"}, "/whoami": {"GET"}, "/webhook-secret": {"GET"},
		} {
			for _, method := range methods {
				serve(f, call{method: method, path: path + query, headers: c.headers}.request(t))
			}
		}
		require.Equal(t, 1, a.count())
	})
}

// A submission that is not acceptable for other reasons causes no request to the target.
func TestASubmissionThatIsRefusedAnywayDoesNotAsk(t *testing.T) {
	t.Parallel()
	a := &asked{}
	f := setup(t, endpoints, verifying(a))
	for _, c := range []call{
		{body: "{}", headers: []string{"Authorization: Bearer alice"}},
		{body: two, headers: []string{"Authorization: Bearer alice", "Content-Type: text/plain"}},
		{body: strings.Replace(two, "GET", "FETCH", 1), headers: []string{"Authorization: Bearer alice"}},
		{body: strings.Replace(two, "crm", "unknown", 1), headers: []string{"Authorization: Bearer alice"}},
		{body: two, headers: []string{"Authorization: Bearer alice", "Idempotency-Key: a", "Idempotency-Key: b"}},
		{body: two},
	} {
		c.method, c.path = "POST", "/batch"
		require.GreaterOrEqual(t, serve(f, c.request(t)).Code, 400)
	}
	require.Zero(t, a.count())
}

func TestABodyThatIsStillUploadingIsNotStored(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		a := &asked{answer: func(*batch.Request) *batch.Response { <-release; return says(http.StatusUnauthorized) }}
		f := setup(t, verifying(a))
		body, upload := io.Pipe()
		r := call{method: "POST", path: "/batch?target=crm", headers: []string{"Authorization: Bearer alice", "Content-Type: application/x-ndjson"}}.request(t)
		r.Body, r.ContentLength = body, -1
		answered := make(chan *httptest.ResponseRecorder)
		go func() { answered <- serve(f, r) }()
		go func() {
			for { // until the server reads no more
				if _, err := io.WriteString(upload, `{"method":"GET","path":"/a"}`+"\n"); err != nil {
					return
				}
			}
		}()
		synctest.Wait()
		require.Equal(t, 1, a.count())
		require.Zero(t, f.store.opens)
		close(release)
		requireProblem(t, <-answered, http.StatusUnauthorized)
		require.Zero(t, f.store.opens)
		require.NoError(t, body.Close())
	})
}

func TestTheTargetIsAskedBeforeTheBodyOfADialectIsRead(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"asana", "requests", "primaerp"} {
		a := &asked{answer: func(*batch.Request) *batch.Response { return says(http.StatusUnauthorized) }}
		f, d := setup(t, endpoints, verifying(a)), foreigners()[name]
		r := d.call().request(t)
		body := &counted{}
		r.Body, r.ContentLength = body, -1
		requireRefusal(t, d, serve(f, r), http.StatusUnauthorized, "the target crm refuses the credential")
		require.Zero(t, body.n, name)
		require.Equal(t, 1, a.count())
	}
}

func TestCredentialsInTheBodyArePartOfTheQuestion(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ header, fields string }{
		{"X-Other: 1", `"_api_key":"app","_user_key":"user",`},
		{"X-API-KEY: app", `"_user_key":"user",`},
		{"X-USER-KEY: user", `"_api_key":"app",`},
	} {
		a := &asked{answer: func(r *batch.Request) *batch.Response {
			app, _ := r.Action.Header("X-API-KEY")
			if user, _ := r.Action.Header("X-USER-KEY"); app != "app" || user != "user" {
				return says(http.StatusUnauthorized)
			}
			return says(http.StatusOK)
		}}
		f, d := setup(t, endpoints, verifying(a)), foreigners()["syncano"]
		c := d.call("Prefer: respond-async")
		c.headers[0], c.headers[1] = "Content-Type: text/plain", test.header
		c.body = strings.Replace(c.body, "{", "{"+test.fields, 1)
		w := serve(f, c.request(t))
		require.Equal(t, http.StatusAccepted, w.Code, "%s", w.Body)
		require.Equal(t, 1, a.count(), "nothing is asked about a part of a credential")
		c.body = strings.Replace(strings.Replace(c.body, `"user"`, `"invented"`, 1), `"app"`, `"invented"`, 1)
		opens := f.store.opens
		requireRefusal(t, d, serve(f, c.request(t)), http.StatusUnauthorized, "refuses the credential")
		require.Equal(t, opens, f.store.opens)
	}
}

func TestAKeyOfBatchdIsNotInAQuestion(t *testing.T) {
	t.Parallel()
	key, a := apikey.New(), &asked{}
	f := setup(t, endpoints, verifying(a))
	for _, c := range []call{
		{path: "/v1/batch/?token=" + key, body: foreigners()["primaerp"].body},
		{path: "/v1.1/instances/i/batch/", body: foreigners()["syncano"].body, headers: []string{"X-API-KEY: " + key}},
		{path: "/v1.1/instances/i/batch/", body: foreigners()["syncano"].body, headers: []string{"X-API-KEY: app", "X-USER-KEY: " + key}},
		{path: "/api/batch", body: foreigners()["requests"].body, headers: []string{"Authorization: Bearer " + key}},
		{path: "/batch", body: two, headers: []string{"Authorization: Bearer " + key}},
	} {
		c.method, c.headers = "POST", append([]string{"Content-Type: application/json"}, c.headers...)
		w := serve(f, c.request(t))
		require.GreaterOrEqual(t, w.Code, 400)
		require.Less(t, w.Code, 500, "%s", w.Body)
		require.NotContains(t, w.Body.String(), key)
	}
	require.Zero(t, a.count())
}

func TestAServerThatShouldAskNeedsAVerifier(t *testing.T) {
	t.Parallel()
	cfg := Config{Store: newFakeStore(), Targets: []string{"crm"}, Sealed: true}
	verifying(&asked{})(&cfg)
	_, err := New(cfg)
	require.NoError(t, err)
	cfg.Verifier = nil
	_, err = New(cfg)
	require.ErrorContains(t, err, "verifier: there is none")
	cfg.Auth.Modes = nil // not passthrough
	_, err = New(cfg)
	require.NoError(t, err)
}
