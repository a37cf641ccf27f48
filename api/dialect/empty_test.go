package dialect_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/api/dialect"
	"github.com/batchd/batchd/internal/batch"
)

// decodeIn decodes a body in a dialect, with every kind of credential.
func decodeIn(t *testing.T, name string, header http.Header, body string) (*dialect.Submission, error) {
	t.Helper()
	d, ok := dialect.Named(name)
	require.True(t, ok)
	if header == nil {
		header = http.Header{"Authorization": {"Bearer x"}}
	}
	return d.Decode(&dialect.Request{
		Header: header, Query: url.Values{"token": {"t"}}, Params: map[string]string{"instance": "i"}, Body: []byte(body),
		MaxActions: 10, MaxActionBody: 1 << 20, Sealed: true,
	})
}

// A member that is present but empty is refused, or means the same as an absent one, or
// has a meaning of its own: the table gives the resulting query and body.
func TestEmptyMembersOfDialectsAreRefusedOrHaveAMeaning(t *testing.T) {
	t.Parallel()
	const (
		asana    = `{"data":{"actions":[{"relative_path":"/a",%s}]}}`
		requests = `{"requests":[{"path":"/a",%s}]}`
		syncano  = `{"requests":[{"path":"/v1.1/instances/i/a",%s}]}`
		primaerp = `[{"path":"/a",%s}]`
	)
	for _, row := range []struct {
		dialect, form, member string
		query, body           string
		says                  string
	}{
		{dialect: "asana", form: asana, member: `"method":"POST","data":{}`, body: `{"data":{}}`},
		{dialect: "asana", form: asana, member: `"method":"POST"`},
		{dialect: "asana", form: asana, member: `"method":"GET","data":{}`},
		{dialect: "asana", form: asana, member: `"method":"GET","data":{"a":[]}`, query: "a="},
		{dialect: "asana", form: asana, member: `"method":"GET","data":null`, says: "expected an object, found null"},
		{dialect: "asana", form: asana, member: `"method":"GET","data":""`, says: "expected an object, found a string"},
		{dialect: "asana", form: asana, member: `"method":"GET","options":{}`},
		{dialect: "asana", form: asana, member: `"method":"GET","options":{"fields":[]}`, query: "opt_fields="},
		{dialect: "asana", form: asana, member: `"method":"GET","options":null`, says: "found null"},
		{dialect: "asana", form: asana, member: `"method":"GET","options":{"limit":""}`, says: "the limit is \"\""},
		{dialect: "asana", form: asana, member: `"method":"GET","options":{"limit":99999999999999999999}`, says: "out of range"},
		{dialect: "asana", form: asana, member: `"method":"GET","options":{"offset":""}`, says: "the offset is empty"},
		{dialect: "asana", form: asana, member: `"method":""`, says: "unknown method"},
		{dialect: "asana", form: `{"data":{}}%.0s`, says: "there is nothing to do"},
		{dialect: "asana", form: `{}%.0s`, says: "there is nothing to do"},
		{dialect: "asana", form: `{"data":null}%.0s`, says: "found null"},

		{dialect: "requests", form: requests, member: `"method":"POST","body":null`},
		{dialect: "requests", form: requests, member: `"method":"POST","body":""`, body: `""`},
		{dialect: "requests", form: requests, member: `"method":"POST","body":{}`, body: `{}`},
		{dialect: "requests", form: requests, member: `"method":"POST","query":{},"headers":{}`},
		{dialect: "requests", form: requests, member: `"method":"POST","id":""`, says: "the id is empty"},
		{dialect: "requests", form: requests, member: `"method":"POST","id":null`, says: "found null"},
		{dialect: "requests", form: `{"requests":[]}%.0s`, says: "there is nothing to do"},

		{dialect: "syncano", form: syncano, member: `"method":"POST","body":null`},
		{dialect: "syncano", form: syncano, member: `"method":"POST","body":{}`, body: `{}`},
		{dialect: "syncano", form: syncano, member: `"method":"POST","body":""`, body: `""`},
		{dialect: "syncano", form: `{"_method":"","requests":[]}%.0s`, says: `the method "" is not allowed here`},

		{dialect: "primaerp", form: primaerp, member: `"method":"POST","id":""`, says: "the id is empty"},
		{dialect: "primaerp", form: primaerp, member: `"method":"POST","transaction":""`, says: "the transaction has no name"},
		{dialect: "primaerp", form: primaerp, member: `"method":"POST","body":""`, query: "token=t"},
		{dialect: "primaerp", form: primaerp, member: `"method":"POST","body":null`, says: "found null"},
		{dialect: "primaerp", form: primaerp, member: `"method":"POST","headers":null`, says: "found null"},
		{dialect: "primaerp", form: `[]%.0s`, says: "there is nothing to do"},
	} {
		body := fmt.Sprintf(row.form, row.member)
		s, err := decodeIn(t, row.dialect, nil, body)
		if row.says != "" {
			require.ErrorContains(t, err, row.says, body)
			continue
		}
		require.NoError(t, err, body)
		require.Equal(t, row.query, s.Actions[0].Query, body)
		require.Equal(t, row.body, string(s.Actions[0].Body), body)
	}
}

func TestEmptyHeadersOfAnItemAreNotTheBatchs(t *testing.T) {
	t.Parallel()
	header := http.Header{"X-Trace": {"1"}}
	s, err := decodeIn(t, "primaerp", header, `[{"method":"GET","path":"/a"},{"method":"GET","path":"/a","headers":""}]`)
	require.NoError(t, err)
	require.Len(t, s.Actions[0].Headers, 1)
	require.Empty(t, s.Actions[1].Headers)
}

func TestDialectsTakeAByteOrderMarkAndNameUTF16(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"asana":    `{"data":{"actions":[{"relative_path":"/a","method":"GET"}]}}`,
		"requests": `{"requests":[{"path":"/a","method":"GET"}]}`,
		"syncano":  `{"requests":[{"path":"/v1.1/instances/i/a","method":"GET"}]}`,
		"primaerp": `[{"path":"/a","method":"GET"}]`,
	} {
		s, err := decodeIn(t, name, nil, "\ufeff"+body)
		require.NoError(t, err, name)
		require.Len(t, s.Actions, 1)
		for bad, says := range map[string]string{
			"\ufeff\ufeff" + body: "byte 3: there is a byte order mark (U+FEFF)",
			body + "\ufeff":       "there is a byte order mark (U+FEFF)",
			"\xff\xfe[\x00]\x00":  "in UTF-16",
			"\x00[\x00]":          "in UTF-16",
			"[\"\xfc\"]":          "", // any message will do
		} {
			_, err := decodeIn(t, name, nil, bad)
			require.ErrorContains(t, err, says, "%s: %q", name, bad)
		}
	}
}

func TestHeadersThatAreNotUTF8AreRefused(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		header http.Header
		body   string
	}{
		"asana":    {http.Header{"Authorization": {"Bearer M\xfcller"}}, `{"data":{"actions":[{"relative_path":"/a","method":"GET"}]}}`},
		"requests": {http.Header{"Authorization": {"Bearer M\xfcller"}}, `{"requests":[{"path":"/a","method":"GET"}]}`},
		"syncano":  {http.Header{"X-Api-Key": {"M\xfcller"}}, `{"requests":[{"path":"/v1.1/instances/i/a","method":"GET"}]}`},
		"primaerp": {http.Header{"X-Name": {"M\xfcller"}}, `[{"path":"/a","method":"GET"}]`},
	} {
		_, err := decodeIn(t, name, row.header, row.body)
		require.ErrorContains(t, err, "is not UTF-8", name)
	}
}

func TestKeysThatNoHeaderCanCarryAreRefused(t *testing.T) {
	t.Parallel()
	const requests = `"requests":[{"path":"/v1.1/instances/i/a","method":"GET"}]`
	long := strings.Repeat("x", batch.MaxHeaderLength)
	for _, row := range []struct {
		header     http.Header
		body       string
		at, detail string
	}{
		{nil, `{"_api_key":"a\nb",` + requests + `}`, "/_api_key", `the value of header "X-API-KEY" holds the control character 0x0a`},
		{nil, `{` + requests + `,"_user_key":"\u0000"}`, "/_user_key", `the value of header "X-USER-KEY" holds the control character 0x00`},
		{nil, `{"_user_key":"` + long + `",` + requests + `}`, "/_user_key", "at most 16384 are allowed"},
		{http.Header{"X-Api-Key": {long}}, `{` + requests + `}`, "", "at most 16384 are allowed"},
		{http.Header{"Authorization": {long}}, `{` + requests + `}`, "", "at most 16384 are allowed"},
	} {
		_, err := decodeIn(t, "syncano", row.header, row.body)
		var invalid *dialect.InvalidError
		require.ErrorAs(t, err, &invalid)
		require.Len(t, invalid.Faults, 1)
		require.Equal(t, row.at, invalid.Faults[0].Pointer)
		require.Contains(t, invalid.Faults[0].Detail, row.detail)
	}
}
