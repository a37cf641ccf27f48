package dialect_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/textproto"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/api/dialect"
	"github.com/batchd/batchd/internal/batch"
)

var update = flag.Bool("update", false, "write what comes out into the golden files")

// TestGoldenFiles reads testdata/<dialect>/<name>.request. The decoded actions are in
// <name>.actions. The answer to <name>.results, or to the request if it is refused, is
// in <name>.answer.
func TestGoldenFiles(t *testing.T) {
	t.Parallel()
	for _, d := range dialect.All() {
		files, err := filepath.Glob(filepath.Join("testdata", d.Name, "*.request"))
		require.NoError(t, err)
		require.NotEmpty(t, files, "a dialect has golden files")
		for _, file := range files {
			name := strings.TrimSuffix(file, ".request")
			t.Run(d.Name+"/"+filepath.Base(name), func(t *testing.T) {
				t.Parallel()
				r := readRequest(t, d, file)
				s, err := d.Decode(r)
				if err != nil {
					a, encodeErr := d.Refuse(problem(t, err))
					require.NoError(t, encodeErr)
					requireGolden(t, name+".answer", fmt.Appendf(nil, "%d\n%s\n\n%s\n", a.Status, a.Media, a.Body))
					require.NoFileExists(t, name+".actions")
					return
				}
				requireGolden(t, name+".actions", actions(t, s))
				results, err := os.ReadFile(name + ".results")
				if errors.Is(err, os.ErrNotExist) {
					return
				}
				require.NoError(t, err)
				var list []batch.Result
				require.NoError(t, json.Unmarshal(results, &list))
				answer, err := d.Encode(r, s, list)
				require.NoError(t, err)
				require.True(t, json.Valid(answer))
				requireGolden(t, name+".answer", append(answer, '\n'))
			})
		}
	}
}

// readRequest reads a request line, headers, an empty line, and the body unchanged.
func readRequest(t *testing.T, d dialect.Definition, file string) *dialect.Request {
	t.Helper()
	raw, err := os.ReadFile(file)
	require.NoError(t, err)
	head, body, ok := strings.Cut(string(raw), "\n\n")
	require.True(t, ok, "no empty line after the headers")
	lines := strings.Split(head, "\n")
	method, target, ok := strings.Cut(lines[0], " ")
	require.True(t, ok)
	require.Equal(t, http.MethodPost, method)
	u, err := url.Parse(target)
	require.NoError(t, err)
	r := &dialect.Request{
		Header: http.Header{}, Query: u.Query(), Params: map[string]string{}, Body: []byte(strings.TrimSuffix(body, "\n")),
		MaxActions: d.MaxActions, MaxActionBody: 1 << 20, Sealed: true,
	}
	if r.MaxActions == 0 {
		r.MaxActions = 3
	}
	for _, param := range d.Params {
		_, after, ok := strings.Cut(u.Path, "/"+param+"s/")
		require.True(t, ok)
		r.Params[param], _, _ = strings.Cut(after, "/")
	}
	for _, line := range lines[1:] {
		name, value, ok := strings.Cut(line, ": ")
		require.True(t, ok, line)
		r.Header.Add(textproto.TrimString(name), value)
	}
	r.Sealed = r.Header.Get("X-Test-Unsealed") == ""
	r.Passthrough = r.Header.Get("X-Test-Passthrough") != ""
	r.Header.Del("X-Test-Unsealed")
	r.Header.Del("X-Test-Passthrough")
	return r
}

// problem converts an error of Decode to a problem, as the API does.
func problem(t *testing.T, err error) *dialect.Problem {
	t.Helper()
	if unauthorized, ok := errors.AsType[*dialect.UnauthorizedError](err); ok {
		return &dialect.Problem{Title: "Unauthorized", Status: http.StatusUnauthorized, Detail: unauthorized.Detail}
	}
	var invalid *dialect.InvalidError
	require.ErrorAs(t, err, &invalid)
	require.NotEmpty(t, invalid.Faults)
	p := &dialect.Problem{Title: "Bad Request", Status: http.StatusBadRequest, Detail: "invalid", More: invalid.More, Items: invalid.Items}
	for _, f := range invalid.Faults {
		e := dialect.ProblemError{Pointer: f.Pointer, Detail: f.Detail}
		if f.Index >= 0 {
			e.Index = &f.Index
		}
		p.Errors = append(p.Errors, e)
	}
	return p
}

// actions formats a submission: one action per line, and its identity.
func actions(t *testing.T, s *dialect.Submission) []byte {
	t.Helper()
	var out bytes.Buffer
	require.Len(t, s.IDs, len(s.Actions))
	for i := range s.Actions {
		a := &s.Actions[i]
		require.Empty(t, a.Validate())
		require.Equal(t, a.ID == "", s.IDs[i] == nil)
		shown := struct {
			ID      string   `json:"id,omitempty"`
			Request string   `json:"request"`
			Headers []string `json:"headers,omitempty"`
			Body    *string  `json:"body,omitempty"`
			Group   string   `json:"group,omitempty"`
		}{ID: a.ID, Request: a.Method + " " + a.Path, Group: a.Group}
		if a.Query != "" {
			shown.Request += "?" + a.Query
		}
		for _, h := range a.Headers {
			shown.Headers = append(shown.Headers, h.Name+": "+h.Value)
		}
		if a.Body != nil {
			body := string(a.Body)
			shown.Body = &body
		}
		enc := json.NewEncoder(&out)
		enc.SetEscapeHTML(false)
		require.NoError(t, enc.Encode(shown))
	}
	fmt.Fprintf(&out, "credentials %q\n", s.Credentials.Identity())
	return out.Bytes()
}

func requireGolden(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		require.NoError(t, os.WriteFile(file, got, 0o600))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), string(got))
}
