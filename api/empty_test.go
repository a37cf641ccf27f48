package api

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/webhook"
)

// A member that is present but empty is refused, or means the same as an absent one, or
// has a meaning of its own. This table covers all of them for submissions in JSON. An
// empty "says" means that the member is accepted.
func TestEmptyMembersAreRefusedOrHaveAMeaning(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		members, action string
		pointer, says   string
	}{
		{members: `"webhook":{}`, pointer: "/webhook", says: "the webhook has no url"},
		{members: `"webhook":{"url":""}`, pointer: "/webhook/url", says: "the URL is empty"},
		{members: `"webhook":{"url":null}`, pointer: "/webhook/url", says: "expected a string, found null"},
		{members: `"webhook":null`, pointer: "/webhook", says: "expected an object, found null"},
		{members: `"webhook":""`, pointer: "/webhook", says: "expected an object, found a string"},
		{members: `"webhook":[]`, pointer: "/webhook", says: "expected an object, found a list"},
		{members: `"expires_in":""`, pointer: "/expires_in", says: "not a duration"},
		{members: `"expires_in":null`, pointer: "/expires_in", says: "found null"},
		{members: `"expires_in":"0s"`, pointer: "/expires_in", says: "out of range"},
		{members: `"retention":""`, pointer: "/retention", says: "not a duration"},
		{members: `"metadata":{}`},
		{members: `"metadata":null`, pointer: "/metadata", says: "found null"},
		{members: `"metadata":{"":"x"}`, pointer: "/metadata/", says: "the key has 0 characters"},
		{members: `"metadata":{"k":""}`},
		{members: `"metadata":{"k":null}`, pointer: "/metadata/k", says: "found null"},
		{members: `"target":""`, pointer: "/target", says: `unknown target ""`},
		{members: `"target":null`, pointer: "/target", says: "found null"},

		{action: `"id":""`, pointer: "/actions/0/id", says: "the id is empty"},
		{action: `"id":null`, pointer: "/actions/0/id", says: "found null"},
		{action: `"query":{}`},
		{action: `"query":{"a":""}`},
		{action: `"query":{"a":[]}`},
		{action: `"query":null`, pointer: "/actions/0/query", says: "found null"},
		{action: `"headers":{}`},
		{action: `"headers":{"A":""}`},
		{action: `"headers":{"A":[]}`},
		{action: `"headers":{"":"x"}`, pointer: "/actions/0/headers/", says: "a header has no name"},
		{action: `"headers":null`, pointer: "/actions/0/headers", says: "found null"},
		{action: `"body":null`},
		{action: `"body":""`},
		{action: `"body":{}`},
		{action: `"body_text":""`},
		{action: `"body_text":null`, pointer: "/actions/0/body_text", says: "found null"},
		{action: `"body_base64":""`},
		{action: `"timeout":""`, pointer: "/actions/0/timeout", says: "not a duration"},
		{action: `"timeout":"0s"`, pointer: "/actions/0/timeout", says: "out of range"},
		{action: `"retry":""`, pointer: "/actions/0/retry", says: "the retry mode is empty"},
		{action: `"retry":{}`, pointer: "/actions/0/retry", says: "expected a string, found an object"},
		{action: `"group":""`, pointer: "/actions/0/group", says: "the group has no name"},
		{action: `"group":null`, pointer: "/actions/0/group", says: "found null"},
		{action: `"group":"g","undo":{}`, pointer: "/actions/0/undo/method", says: "the method is missing"},
		{action: `"undo":null`, pointer: "/actions/0/undo", says: "found null"},
	} {
		f := setup(t, func(c *Config) { c.Targets, c.Webhooks.AllowPrivate, c.Webhooks.Ports = []string{"crm"}, true, nil })
		body := `{"actions":[{"method":"POST","path":"/"`
		if row.action != "" {
			body += "," + row.action
		}
		body += "}]"
		if row.members != "" {
			body += "," + row.members
		}
		w := f.do(t, call{method: "POST", path: "/batch", body: body + "}", bad: row.says != ""})
		name := row.members + row.action
		if row.says == "" {
			require.Equal(t, http.StatusAccepted, w.Code, "%s: %s", name, w.Body)
			continue
		}
		p := requireProblem(t, w, http.StatusBadRequest)
		require.Equal(t, row.pointer, p.Errors[0].Pointer, name)
		require.Contains(t, p.Errors[0].Detail, row.says, name)
		require.NotContains(t, w.Body.String(), "target is missing", "%s: what is bad is not missing", name)
	}
}

func TestEmptyBodiesAreNotAbsentOnes(t *testing.T) {
	t.Parallel()
	for member, want := range map[string]struct {
		body  []byte
		media string
	}{
		``:                       {nil, ""},
		`,"body":null`:           {[]byte("null"), "application/json"},
		`,"body":""`:             {[]byte(`""`), "application/json"},
		`,"body":{}`:             {[]byte("{}"), "application/json"},
		`,"body_text":""`:        {[]byte{}, "text/plain; charset=utf-8"},
		`,"body_base64":""`:      {[]byte{}, ""},
		`,"query":{"a":[]}`:      {nil, ""},
		`,"headers":{"A":[]}`:    {nil, ""},
		`,"headers":{},"id":"x"`: {nil, ""},
	} {
		f := setup(t)
		f.created(t, call{body: `{"target":"crm","actions":[{"method":"POST","path":"/"` + member + `}]}`})
		a := f.store.stored("batch-1")[0]
		require.Equal(t, want.body, a.Body, member)
		require.Equal(t, want.body == nil, a.Body == nil, member)
		media, _ := a.Header("Content-Type")
		require.Equal(t, want.media, media, member)
		require.Empty(t, a.Query, member)
	}
}

func TestEmptyParametersAndHeadersAreRefusedOrHaveAMeaning(t *testing.T) {
	t.Parallel()
	f := setup(t)
	id := f.created(t, call{body: actions(1)})
	get := `{"method":"GET","path":"/"}`
	for _, path := range []string{"/batch?limit=", "/batch?cursor=", "/batch?cursor", "/batch/" + id + "/results?from=", "/batch/" + id + "/results?limit=", "/batch/" + id + "/results?outcome=", "/batch/" + id + "?="} {
		requireProblem(t, f.do(t, call{method: "GET", path: path, bad: true}), http.StatusBadRequest)
	}
	requireProblem(t, f.do(t, call{method: "POST", path: "/batch/" + id + "/retry?outcome=", bad: true}), http.StatusBadRequest)
	for _, name := range []string{"target", "webhook", "expires_in", "retention", "metadata."} {
		w := f.do(t, call{method: "POST", path: "/batch?" + name + "=", headers: []string{"Content-Type: application/x-ndjson"}, body: get, bad: true})
		p := requireProblem(t, w, http.StatusBadRequest)
		require.Contains(t, p.Errors[0].Detail, `query parameter "`+name+`"`)
	}
	w := f.do(t, call{method: "POST", path: "/batch?target=crm&metadata.k=", headers: []string{"Content-Type: application/x-ndjson"}, body: get})
	require.Equal(t, http.StatusAccepted, w.Code, w.Body)

	for header, status := range map[string]int{
		"Idempotency-Key:": 400, `Idempotency-Key: ""`: 400, "Content-Type:": 415,
		"Accept:": 202, "Prefer:": 202, "Prefer: wait": 202, "Prefer: wait=": 202, "Content-Encoding:": 202, "X-Request-Id:": 202,
	} {
		w := f.do(t, call{method: "POST", path: "/batch", headers: []string{header}, body: actions(1), bad: true})
		require.Equal(t, status, w.Code, "%s: %s", header, w.Body)
		require.Empty(t, w.Header().Get("Preference-Applied"), header)
		require.NotEmpty(t, w.Header().Get("X-Request-ID"), header)
	}
	w = f.do(t, call{method: "GET", path: "/batch/" + id, headers: []string{"If-None-Match:"}})
	require.Equal(t, http.StatusOK, w.Code)
}

func TestLengthsCountCharacters(t *testing.T) {
	t.Parallel()
	long := func(n int) string { return strings.Repeat("ü", n) }
	for _, row := range []struct {
		member, pointer, says string
		bad                   string
	}{
		{member: `"id":"` + long(256) + `"`, bad: `"id":"` + long(257) + `"`, pointer: "/actions/0/id", says: "257 characters"},
		{member: `"group":"` + long(256) + `"`, bad: `"group":"` + long(257) + `"`, pointer: "/actions/0/group", says: "257 characters"},
		{member: `}],"metadata":{"` + long(128) + `":"x"},"x":[{`, bad: `}],"metadata":{"` + long(129) + `":"x"},"x":[{`, says: "129 characters"},
		{member: `}],"metadata":{"k":"` + long(2048) + `"},"x":[{`, bad: `}],"metadata":{"k":"` + long(2049) + `"},"x":[{`, says: "2049 characters"},
	} {
		for i, member := range []string{row.member, row.bad} {
			f := setup(t)
			body := `{"target":"crm","actions":[{"method":"GET","path":"/",` + member + `}]}`
			body = strings.Replace(body, `,}]`, `}]`, 1)
			body = strings.Replace(body, `,"x":[{}]`, "", 1)
			w := f.do(t, call{method: "POST", path: "/batch", body: body, bad: i == 1})
			if i == 0 {
				require.Equal(t, http.StatusAccepted, w.Code, "%s", w.Body)
				continue
			}
			p := requireProblem(t, w, http.StatusBadRequest)
			require.Contains(t, p.Errors[0].Detail, row.says)
			if row.pointer != "" {
				require.Equal(t, row.pointer, p.Errors[0].Pointer)
			}
		}
	}
	require.NoError(t, checkWebhook("https://example.com/"+long(2028), false))
	require.ErrorContains(t, checkWebhook("https://example.com/"+long(2029), false), "2049 characters")
}

func TestPortsThatNobodyListensOnAreRefusedInWebhooks(t *testing.T) {
	t.Parallel()
	for _, private := range []bool{true, false} {
		for _, host := range []string{"example.com:0", "example.com:65536", "example.com:99999999999999999999", "[2606:4700::1111]:0", "8.8.8.8:00"} {
			require.ErrorContains(t, checkWebhook("https://"+host+"/", private), "expected 1 to 65535", host)
		}
		for _, host := range []string{"example.com", "example.com:", "example.com:1", "example.com:65535", "[2606:4700::1111]:443"} {
			require.NoError(t, checkWebhook("https://"+host+"/", private), host)
		}
	}
}

func TestNumbersBeyondAllMeasureGetASensibleError(t *testing.T) {
	t.Parallel()
	const huge = "99999999999999999999"
	f := setup(t)
	id := f.created(t, call{body: actions(1)})
	for path, says := range map[string]string{
		"/batch?limit=" + huge:                     "expected a whole number from 1 to 200",
		"/batch/" + id + "/results?from=" + huge:   "expected a whole number from 0 to",
		"/batch/" + id + "/results?from=-1":        "expected a whole number from 0 to",
		"/batch/" + id + "/results?limit=1e3":      "expected a whole number from 1 to",
		"/batch/" + id + "/results?limit=-" + huge: "expected a whole number from 1 to",
	} {
		require.Contains(t, requireProblem(t, f.do(t, call{method: "GET", path: path, bad: true}), 400).Detail, says)
	}
	var to time.Duration
	for text, says := range map[string]string{
		huge + "h": "out of range", "1h" + huge + ".5s": "out of range", "-" + huge + "s": "out of range", "9223372036854775808ns": "out of range",
		huge: "not a duration", huge + "d": "not a duration", "1e9s": "not a duration",
	} {
		require.ErrorContains(t, setDuration(&to, text, batch.MaxTimeout), says, text)
	}
}

// checkWebhook checks the URL of a webhook as in a submission.
func checkWebhook(raw string, private bool) error {
	c := webhook.Config{AllowPrivate: private}
	d := decoder{rules: rules{webhooks: true, checkWebhook: func(raw string) error { return c.CheckURL(raw, "me", nil) }}}
	return d.setWebhook(raw)
}
