package e2e

import (
	"bytes"
	"encoding/json"
	"flag"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"
)

const root = "../.."

// exampleAPI is the API that answers the examples of docs/DIALECTS.md. Its answers have
// no date, so that the documentation can show them.
type exampleAPI struct {
	mu   sync.Mutex
	seen []string // requests with their bodies
}

func startExampleAPI(t *testing.T) (*exampleAPI, string) {
	t.Helper()
	api := &exampleAPI{}
	server := httptest.NewServer(api)
	t.Cleanup(server.Close)
	return api, server.URL
}

// ServeHTTP implements [http.Handler].
func (a *exampleAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	line := r.Method + " " + r.URL.RequestURI()
	a.mu.Lock()
	a.seen = append(a.seen, line+" "+string(body)+" "+credentials(r))
	a.mu.Unlock()
	w.Header()["Date"] = nil
	answer := func(status int, body string) {
		if body != "" {
			w.Header().Set("Content-Type", "application/json")
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
	// All versions of an API answer the same.
	switch r.Method + " " + strings.Replace(r.URL.Path, "/v2/", "/v1.1/", 1) {
	case "GET /api/1.0/tasks":
		answer(200, `{"data":[{"gid":"1001","name":"Write it down"}]}`)
	case "POST /api/1.0/tasks":
		var content struct{ Data struct{ Name string } }
		if err := json.Unmarshal(body, &content); err != nil {
			answer(400, `{"errors":[{"message":"no data"}]}`)
			return
		}
		w.Header().Set("Location", "/tasks/1002")
		answer(201, `{"data":{"gid":"1002","name":"`+content.Data.Name+`"}}`)
	case "GET /items/1":
		answer(200, `{"id":1,"name":"OldItem"}`)
	case "POST /items":
		answer(201, `{"id":2,"name":"NewItem"}`)
	case "POST /v1.1/instances/i/api_keys/":
		answer(201, `{"id":3,"allow_user_create":true}`)
	case "PATCH /v1.1/instances/i/classes/class/objects/38/":
		answer(200, `{"id":38,"string":"new"}`)
	case "POST /v1.1/instances/i/classes/class/objects/":
		answer(201, `{"id":39,"string":"made"}`)
	case "DELETE /v1.1/instances/i/snippets/scripts/2/", "DELETE /v1.1/instances/i/classes/class/objects/38/":
		answer(204, "")
	case "GET /v1/time/timerecords":
		answer(200, `[]`)
	case "PUT /v1/time/projects/bb4acd88":
		answer(200, `{"id":"bb4acd88","name":"New name"}`)
	case "POST /tx":
		answer(201, `{"id":"tx-1"}`)
	case "POST /tx/tx-1/commit", "POST /tx/tx-1/rollback":
		answer(200, `{}`)
	default:
		answer(404, `{"detail":"Not found."}`)
	}
}

// credentials lists the credentials and the transaction of a request.
func credentials(r *http.Request) string {
	var found []string
	for _, name := range []string{"Authorization", "X-Api-Key", "X-User-Key", "X-Tx"} {
		if value := r.Header.Get(name); value != "" {
			found = append(found, name+"="+value)
		}
	}
	return strings.Join(found, " ")
}

// holds reports whether one of the requests contains the text.
func (a *exampleAPI) holds(text string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return strings.Contains(strings.Join(a.seen, "\n")+"\n", text)
}

// example NAME writes deployments/examples/NAME.yaml to NAME.yaml, with the example API
// as the target.
func (s *script) example(ts *testscript.TestScript, _ bool, args []string) {
	api, url := startExampleAPI(s.t)
	s.mu.Lock()
	s.examples = api
	s.mu.Unlock()
	ts.Check(writeExample(args[0], ts.MkAbs(args[0]+".yaml"), url))
}

func writeExample(name, file, url string) error {
	source, err := os.ReadFile(filepath.Join(root, "deployments", "examples", name+".yaml"))
	if err != nil {
		return err
	}
	return os.WriteFile(file, bytes.ReplaceAll(source, []byte("http://127.0.0.1:9000"), []byte(url)), 0o600)
}

// sent TEXT checks that a request with that text reached the example API.
func (s *script) sent(ts *testscript.TestScript, neg bool, args []string) {
	if s.examples.holds(args[0]) == neg {
		ts.Fatalf("%q was sent: %v, among:\n%s", args[0], !neg, strings.Join(s.examples.seen, "\n"))
	}
}

var (
	update = flag.Bool("update", false, "write into docs/DIALECTS.md what the commands there print")
	block  = regexp.MustCompile("(?s)```sh\n(curl .*?)```\n+```json\n(.*?)```")
	// dialects guards the documentation, which several scripts may update.
	dialects sync.Mutex
)

// documented NAME runs the commands in a section of docs/DIALECTS.md and compares their
// output with the documented output.
func (s *script) documented(ts *testscript.TestScript, _ bool, args []string) {
	dialects.Lock()
	defer dialects.Unlock()
	file := filepath.Join(root, "docs", "DIALECTS.md")
	source, err := os.ReadFile(file)
	ts.Check(err)
	_, section, ok := strings.Cut(string(source), "\n## "+args[0]+"\n")
	if !ok {
		ts.Fatalf("there is no section %q", args[0])
	}
	section, _, _ = strings.Cut(section, "\n## ")
	blocks := block.FindAllStringSubmatch(section, -1)
	if len(blocks) == 0 {
		ts.Fatalf("there is no command in the section %q", args[0])
	}
	for _, b := range blocks {
		out, err := exec.Command("sh", "-c", strings.ReplaceAll(b[1], "http://127.0.0.1:8080", ts.Getenv("URL"))).Output()
		ts.Check(err)
		got, want := strings.TrimSpace(string(out)), strings.TrimSpace(b[2])
		if *update {
			source = bytes.Replace(source, []byte(b[0]), []byte(strings.Replace(b[0], b[2], got+"\n", 1)), 1)
			ts.Check(os.WriteFile(file, source, 0o600))
		} else if got != want {
			ts.Fatalf("%s\nprints\n%s\nand not\n%s", b[1], got, want)
		}
	}
}

func TestEveryExampleHasAScript(t *testing.T) {
	t.Parallel()
	examples, err := filepath.Glob(filepath.Join(root, "deployments", "examples", "*.yaml"))
	require.NoError(t, err)
	require.NotEmpty(t, examples)
	for _, file := range examples {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		script, err := os.ReadFile(filepath.Join("testdata", name+".txtar"))
		require.NoError(t, err)
		require.Contains(t, string(script), "documented "+name)
	}
}

func get(t *testing.T, url string) string {
	t.Helper()
	res, err := http.Get(url)
	require.NoError(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return string(body)
}
