// Package faults breaks a running batchd in the ways in which machines and networks
// break, and checks its promises. The processes and Redis are real. The target's own
// log is the reference: every action has an id in its path, and the target records
// every request that arrives.
//
// Without a build tag the scenarios run in a short form, in parallel. With the tag
// "faults" they run in full, one after another; see docs/RELIABILITY.md.
package faults

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/client"
	"github.com/batchd/batchd/internal/redistest"
)

// binary is the batchd under test.
var binary string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "batchd-faults-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if !long {
		// Scenarios mostly wait, so more of them than processors may run at a time.
		if err := flag.Set("test.parallel", "5"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	binary = filepath.Join(dir, "batchd")
	if out, err := exec.Command("go", "build", "-o", binary, "../../cmd/batchd").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the binary: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// scale returns the first value in the short form, the second in the long one.
func scale[T any](short, full T) T {
	if long {
		return full
	}
	return short
}

// scenario runs scenarios in parallel in the short form. In the long form each has the
// machine for itself, for accurate figures.
func scenario(t *testing.T) {
	t.Helper()
	if !long {
		t.Parallel()
	}
}

// figure prints a measured figure in one line.
func figure(t *testing.T, format string, args ...any) {
	t.Helper()
	t.Logf("figure: "+format, args...)
}

// secret signs the webhooks of every world.
const secret = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="

// concurrency is the default number of requests in flight of one worker.
const concurrency = 16

// world is one installation: a Redis, a target, a receiver of webhooks, and the
// processes of batchd that a scenario starts.
type world struct {
	t        *testing.T
	redis    *redistest.Server // nil if a scenario starts its own
	redisURL string
	target   *target
	receiver *receiver
	dir      string
	apiAddr  string
	client   *client.Client

	// base is the URL of the target for the workers. Each worker has its own name as
	// the first segment of the path.
	base        string
	hookURL     string // URL of the load's webhooks; empty for none
	targetName  string
	concurrency int
	timeout     time.Duration
	targets     string // further targets, in the form of the configuration
	lossy       bool   // Redis may lose acknowledged writes
	starts      int

	settings       string // further lines of the configuration
	targetSettings string // further settings of the target, each with a comma in front
}

// durable are the settings of a Redis that writes to disk before it answers.
var durable = []string{"--appendonly", "yes", "--appendfsync", "always"}

// newWorld starts a durable Redis, a target and a receiver.
func newWorld(t *testing.T) *world {
	t.Helper()
	server := redistest.Start(t, durable...)
	w := newWorldOn(t, server.URL())
	w.redis = server
	return w
}

func newWorldOn(t *testing.T, redisURL string) *world {
	t.Helper()
	w := &world{
		t: t, redisURL: redisURL, dir: t.TempDir(), target: startTarget(t), receiver: startReceiver(t),
		apiAddr: redistest.FreeAddr(t), targetName: "default", concurrency: concurrency, timeout: 30 * time.Second,
	}
	w.base = w.target.url
	w.client = w.newClient(w.apiAddr)
	return w
}

// newClient returns a client that waits for an unavailable server.
func (w *world) newClient(addr string) *client.Client {
	w.t.Helper()
	c, err := client.New("http://"+addr, client.WithRetryFor(3*time.Minute))
	require.NoError(w.t, err)
	return c
}

// config writes the configuration of one process. A worker's name is part of the
// target's URL, so that the target can distinguish the workers.
func (w *world) config(name string) string {
	w.t.Helper()
	w.starts++
	file := filepath.Join(w.dir, fmt.Sprintf("%s-%d.yaml", name, w.starts))
	text := fmt.Sprintf(`log: {level: info, format: json}
auth: {hosts: [127.0.0.1]} # clients come through a proxy, which has a port of its own
redis: {url: %q}
webhooks: {secret: %q, allow_private: true}
seal: {keys: [{id: one, base64: %q}]}
targets:
  - {name: %s, base_url: %q, concurrency: %d, timeout: %s%s}
%sendpoints:
  - {path: /asana, dialect: asana, target: %s, wait: 10s}
%s`, w.redisURL, secret, strings.TrimPrefix(secret, "whsec_"), w.targetName, w.base+"/"+name, w.concurrency, w.timeout, w.targetSettings,
		w.targets, w.targetName, w.settings)
	require.NoError(w.t, os.WriteFile(file, []byte(text), 0o600))
	return file
}

// startAPI starts an API on the world's address.
func (w *world) startAPI() *process {
	w.t.Helper()
	return w.startAPIOn(w.apiAddr)
}

func (w *world) startAPIOn(addr string) *process {
	w.t.Helper()
	p := w.start("api", "api", "--listen", addr, "--config", w.config("api"))
	p.awaitLog("batchd is up")
	return p
}

// startWorker starts a worker whose requests the target logs under that name.
func (w *world) startWorker(name string) *process {
	w.t.Helper()
	p := w.start(name, "worker", "--worker-listen", "127.0.0.1:0", "--config", w.config(name))
	p.awaitLog("worker started")
	return p
}

// process is a running batchd.
type process struct {
	t    *testing.T
	name string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	told atomic.Bool   // it was told to end

	mu  sync.Mutex
	log bytes.Buffer
	new chan struct{} // closed and replaced with every line
}

func (w *world) start(name string, args ...string) *process {
	w.t.Helper()
	p := w.newProcess(name, exec.Command(binary, args...))
	p.run()
	return p
}

func (w *world) newProcess(name string, cmd *exec.Cmd) *process {
	return &process{t: w.t, name: name, cmd: cmd, done: make(chan struct{}), new: make(chan struct{})}
}

// run starts the process, and ends it with the test.
func (p *process) run() {
	p.t.Helper()
	stderr, err := p.cmd.StderrPipe()
	require.NoError(p.t, err)
	require.NoError(p.t, p.cmd.Start())
	go func() {
		p.read(stderr)
		_ = p.cmd.Wait() // its state has the exit code
		if !p.told.Load() {
			p.t.Errorf("%s ended by itself: %s", p.name, p.cmd.ProcessState)
		}
		close(p.done)
	}()
	p.t.Cleanup(func() {
		p.kill()
		if p.t.Failed() {
			p.t.Logf("the log of %s ends with:\n%s", p.name, p.tail(12))
		}
	})
}

func (p *process) read(stderr io.Reader) {
	lines := bufio.NewReader(stderr)
	for {
		line, err := lines.ReadBytes('\n')
		p.mu.Lock()
		p.log.Write(line)
		close(p.new)
		p.new = make(chan struct{})
		p.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// lines returns the number of lines of the log with that message.
func (p *process) lines(message string) int {
	n, _ := p.look(message)
	return n
}

func (p *process) look(message string) (int, <-chan struct{}) {
	quoted, _ := json.Marshal(message) // a string always encodes
	p.mu.Lock()
	defer p.mu.Unlock()
	return bytes.Count(p.log.Bytes(), append([]byte(`"msg":`), quoted...)), p.new
}

// tail returns the last lines of the log, without successful requests.
func (p *process) tail(n int) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	lines := slices.DeleteFunc(strings.Split(strings.TrimSpace(p.log.String()), "\n"), func(line string) bool {
		return strings.Contains(line, `"level":"INFO","msg":"request"`)
	})
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

func (p *process) awaitLog(message string) {
	p.t.Helper()
	deadline := time.After(time.Minute)
	for {
		n, more := p.look(message)
		if n > 0 {
			return
		}
		select {
		case <-more:
		case <-p.done:
			require.FailNow(p.t, "the process ended", "%s:\n%s", p.name, p.tail(30))
		case <-deadline:
			require.FailNow(p.t, "the process does not come up", "%s:\n%s", p.name, p.tail(30))
		}
	}
}

// signal sends a signal to a process that runs.
func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if s == syscall.SIGTERM {
		p.told.Store(true)
	}
	require.NoError(p.t, p.cmd.Process.Signal(s), "signal %s", p.name)
}

// kill ends the process like kill -9, and returns when it is gone.
func (p *process) kill() {
	p.told.Store(true)
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Errorf("kill %s: %v", p.name, err)
	}
	<-p.done
}

// exit waits for the end of the process and returns its exit code, -1 if a
// signal ended it.
func (p *process) exit(within time.Duration) int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(within):
		require.FailNow(p.t, "the process does not end", "%s after %s:\n%s", p.name, within, p.tail(30))
	}
	return p.cmd.ProcessState.ExitCode()
}

// eventually waits until a condition holds.
func eventually(t *testing.T, within time.Duration, holds func() bool, format string, args ...any) {
	t.Helper()
	for deadline := time.Now().Add(within); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", within, fmt.Sprintf(format, args...))
		}
	}
}

// listen serves a handler on loopback until the test ends. It does not wait for
// requests in progress, which a scenario may hold.
func listen(t *testing.T, addr string, handler http.Handler) string {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	require.NoError(t, err)
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(l) }() // it ends with Close
	t.Cleanup(func() { _ = server.Close() })
	return "http://" + l.Addr().String()
}
