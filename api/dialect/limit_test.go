package dialect_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/api/dialect"
)

func TestTheBodyOfAnActionIsBounded(t *testing.T) {
	t.Parallel()
	for name, format := range map[string]string{
		"asana":    `{"data":{"actions":[{"method":"post","relative_path":"/a","data":{"x":"%"}}]}}`,
		"requests": `{"requests":[{"method":"POST","path":"/a","body":{"x":"%"}}]}`,
		"syncano":  `{"requests":[{"method":"POST","path":"/v1/instances/i/a/","body":{"x":"%"}}]}`,
		"primaerp": `[{"method":"POST","path":"/a","body":"%"}]`,
	} {
		d, ok := dialect.Named(name)
		require.True(t, ok)
		r := &dialect.Request{
			Header: http.Header{"Authorization": {"x"}}, Query: url.Values{"token": {"x"}}, Params: map[string]string{"instance": "i"},
			MaxActions: 1, MaxActionBody: 100, Sealed: true,
		}
		r.Body = []byte(strings.Replace(format, "%", strings.Repeat("y", 80), 1))
		_, err := d.Decode(r)
		require.NoError(t, err, name)
		r.Body = []byte(strings.Replace(format, "%", strings.Repeat("y", 101), 1))
		_, err = d.Decode(r)
		require.ErrorContains(t, err, "at most 100 are allowed", name)
	}
}

func TestUnknownNamesAreNoDialects(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", "native", "Asana"} {
		_, ok := dialect.Named(name)
		require.False(t, ok, name)
	}
}

func TestFaultsBeyondTheMostDoNotHideTheAnswer(t *testing.T) {
	t.Parallel()
	for _, d := range dialect.All() {
		body := map[string]string{
			"asana": `{"data":{"actions":[%`, "requests": `{"requests":[%`, "syncano": `{"requests":[%`, "primaerp": `[%`,
		}[d.Name]
		r := &dialect.Request{
			Header: http.Header{"Authorization": {"x"}}, Query: url.Values{"token": {"x"}}, Params: map[string]string{"instance": "i"},
			MaxActions: 1000, MaxActionBody: 100, Sealed: true,
		}
		// Reading breaks off in an item that has faults already, more than are listed.
		r.Body = []byte(strings.Replace(body, "%", strings.Repeat(`7,`, 99)+`{"a":1,"b":2,`, 1))
		_, err := d.Decode(r)
		p := problem(t, err)
		require.Len(t, p.Errors, 100)
		require.Positive(t, p.More)
		a, err := d.Refuse(p)
		require.NoError(t, err)
		require.True(t, json.Valid(a.Body))
	}
}
