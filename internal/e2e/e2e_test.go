// Package e2e runs the real binary against a real Redis and real HTTP APIs.
package e2e

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mccutchen/go-httpbin/v2/httpbin"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/redistest"
)

// bin is the folder of the binary under test.
var bin string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "batchd-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	bin = dir
	build := exec.Command("go", "build", "-race", "-o", filepath.Join(dir, "batchd"), "../../cmd/batchd")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the binary: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

func TestScripts(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.txtar")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			s := &script{t: t}
			testscript.Run(t, testscript.Params{
				Files: []string{file},
				Setup: s.setup,
				Cmds: map[string]func(*testscript.TestScript, bool, []string){
					"redis": s.redis, "ready": s.ready, "curl": s.curl, "repeat": s.repeat, "seen": s.seen, "await": s.await, "random": s.random, "term": term,
					"example": s.example, "sent": s.sent, "documented": s.documented,
				},
				RequireExplicitExec: true,
			})
		})
	}
}

// script is the environment of one script: a go-httpbin as the target, a port for the
// API, and a Redis of its own if the script asks for one.
type script struct {
	t      *testing.T
	server *redistest.Server

	mu    sync.Mutex
	posts map[string]int // requests by path and query, of those that reached the target
	hooks []string       // bodies that reached the receiver of webhooks

	examples *exampleAPI
}

func (s *script) setup(env *testscript.Env) error {
	s.posts = map[string]int{}
	api := httpbin.New()
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hook" {
			body, _ := io.ReadAll(r.Body)
			s.mu.Lock()
			s.hooks = append(s.hooks, r.Header.Get("Webhook-Id")+" "+string(body))
			s.mu.Unlock()
			return
		}
		s.mu.Lock()
		s.posts[r.Method+" "+r.URL.RequestURI()]++
		s.mu.Unlock()
		api.ServeHTTP(w, r)
	}))
	s.t.Cleanup(target.Close)
	env.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	env.Setenv("TARGET", target.URL)
	env.Setenv("GORACE", "atexit_sleep_ms=0 halt_on_error=1")
	for i := range 4 {
		env.Setenv("ADDR"+strconv.Itoa(i), redistest.FreeAddr(s.t))
	}
	env.Setenv("BATCHD_SERVER", "http://"+env.Getenv("ADDR0"))
	env.Setenv("URL", "http://"+env.Getenv("ADDR0"))
	return nil
}

// redis start|kill|restart works on the script's Redis, whose URL is in $REDIS.
func (s *script) redis(ts *testscript.TestScript, _ bool, args []string) {
	switch args[0] {
	case "start":
		s.server = redistest.Start(s.t, "--appendonly", "yes", "--appendfsync", "always")
		ts.Setenv("REDIS", s.server.URL())
	case "kill":
		s.server.Kill()
	case "restart":
		s.server.Restart()
	default:
		ts.Fatalf("unknown: redis %v", args)
	}
}

// term TEXT sends SIGTERM to the background command whose line contains the text.
func term(ts *testscript.TestScript, _ bool, args []string) {
	for _, cmd := range ts.BackgroundCmds() {
		if strings.Contains(strings.Join(cmd.Args, " "), args[0]) && cmd.ProcessState == nil {
			ts.Check(cmd.Process.Signal(syscall.SIGTERM))
			return
		}
	}
	ts.Fatalf("no background command holds %q", args[0])
}

// ready URL waits until the URL answers 200.
func (s *script) ready(ts *testscript.TestScript, _ bool, args []string) {
	deadline := time.Now().Add(30 * time.Second)
	for {
		resp, err := http.Get(args[0])
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%s is not ready: %v", args[0], err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// curl runs curl and prints the answer's head and body.
func (s *script) curl(ts *testscript.TestScript, neg bool, args []string) {
	err := ts.Exec("curl", append([]string{"-sS", "-i", "--max-time", "30"}, args...)...)
	if (err != nil) != neg {
		ts.Fatalf("curl: %v", err)
	}
}

// repeat N FILE TEXT appends N lines to a file; {} in the text is the number of the line, from 0.
func (s *script) repeat(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	f, err := os.OpenFile(ts.MkAbs(args[1]), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	ts.Check(err)
	defer f.Close()
	for i := range n {
		_, err := fmt.Fprintln(f, strings.ReplaceAll(args[2], "{}", strconv.Itoa(i)))
		ts.Check(err)
	}
}

// random FILE N writes bytes that no decoder accepts.
func (s *script) random(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.Repeat("[", n)), 0o600))
}

// seen N PREFIX checks that N requests whose method and path begin with the prefix
// reached the target, each once.
func (s *script) seen(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	s.mu.Lock()
	defer s.mu.Unlock()
	got := 0
	for line, n := range s.posts {
		if strings.HasPrefix(line, args[1]) {
			got++
			if n != 1 {
				ts.Fatalf("%s was seen %d times", line, n)
			}
		}
	}
	if got != want {
		ts.Fatalf("%d requests %s were seen, not %d: %v", got, args[1], want, s.posts)
	}
}

// await hook TEXT waits until a webhook contains a text.
func (s *script) await(ts *testscript.TestScript, _ bool, args []string) {
	deadline := time.Now().Add(30 * time.Second)
	for {
		s.mu.Lock()
		for _, h := range s.hooks {
			if strings.Contains(h, args[1]) {
				s.mu.Unlock()
				return
			}
		}
		s.mu.Unlock()
		if time.Now().After(deadline) {
			ts.Fatalf("no webhook holds %q", args[1])
		}
		time.Sleep(20 * time.Millisecond)
	}
}
