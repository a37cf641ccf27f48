package main

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
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

// process is a separate batchd process.
type process struct {
	*exec.Cmd
	url   string
	log   io.ReadCloser
	ended chan error
}

var urlInLog = regexp.MustCompile(`msg="batchd is up" url=(\S+)`)

// startProcess starts batchd, under another command if one is given, and waits until it
// is up.
func startProcess(t *testing.T, under []string, args ...string) *process {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	line := append(append(append([]string{}, under...), self), args...)
	p := &process{Cmd: exec.CommandContext(context.WithoutCancel(t.Context()), line[0], line[1:]...), ended: make(chan error, 1)}
	p.Env = append(os.Environ(), asProcess+"=1")
	// While the test handles the signal, the process starts with its default action, even if
	// the tests themselves run under nohup.
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	t.Cleanup(func() { signal.Stop(hangups) })
	p.log, err = p.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, p.Start())
	t.Cleanup(func() { _ = p.Process.Kill() })
	lines := bufio.NewScanner(p.log)
	for lines.Scan() {
		if found := urlInLog.FindStringSubmatch(lines.Text()); found != nil {
			p.url = found[1]
			return p
		}
	}
	require.FailNow(t, "batchd did not start")
	return nil
}

// wait records the end of the process. The test must not read its log after this.
func (p *process) wait() {
	go func() { p.ended <- p.Wait() }()
}

func (p *process) requireEnd(t *testing.T) {
	t.Helper()
	select {
	case err := <-p.ended:
		require.NoError(t, err)
	case <-time.After(30 * time.Second):
		require.FailNow(t, "the process does not end")
	}
}

// slowTarget answers only after its release, and reports when a request has arrived.
type slowTarget struct {
	*httptest.Server
	asked   chan struct{}
	held    chan struct{}
	release func()
	answers atomic.Int32
}

func newSlowTarget(t *testing.T) *slowTarget {
	t.Helper()
	s := &slowTarget{asked: make(chan struct{}, 9), held: make(chan struct{})}
	s.release = sync.OnceFunc(func() { close(s.held) })
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.asked <- struct{}{}
		<-s.held
		if r.Context().Err() == nil {
			s.answers.Add(1)
		}
		w.WriteHeader(http.StatusOK)
	}))
	t.Cleanup(func() { s.release(); s.Close() })
	return s
}

func (s *slowTarget) await(t *testing.T) {
	t.Helper()
	select {
	case <-s.asked:
	case <-time.After(30 * time.Second):
		require.FailNow(t, "the target was not asked")
	}
}

// A terminal that closes sends SIGHUP, often more than once, and ends the reader of the
// log. Requests in flight still finish.
func TestAHangupDrains(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	target := newSlowTarget(t)
	shared := []string{"--redis-url", server.URL(), "--target", target.URL}
	api := startProcess(t, nil, append([]string{"api", "--listen", "127.0.0.1:0"}, shared...)...)
	worker := startProcess(t, nil, append([]string{"worker", "--worker-listen", "127.0.0.1:0"}, shared...)...)
	c, err := client.New(api.url, client.WithHTTPClient(&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}))
	require.NoError(t, err)
	batch, err := c.Submit(t.Context(), []client.Action{{Method: "POST", Path: "/"}}, client.Options{})
	require.NoError(t, err)
	require.Equal(t, client.StoreRedis, batch.Store)
	target.await(t)

	require.NoError(t, worker.log.Close())
	worker.wait()
	for range 3 {
		require.NoError(t, worker.Process.Signal(syscall.SIGHUP))
		select {
		case err := <-worker.ended:
			require.FailNow(t, "the worker did not drain", "%v", err)
		case <-time.After(200 * time.Millisecond): // a fatal signal would end it at once
		}
	}
	target.release()
	worker.requireEnd(t)
	batch, err = c.Wait(t.Context(), batch.ID)
	require.NoError(t, err)
	require.Equal(t, 1, batch.Counts.Succeeded, "%+v", batch.Counts)

	api.wait()
	require.NoError(t, api.Process.Signal(syscall.SIGHUP))
	api.requireEnd(t)
}

func TestAHangupDrainsAServerInOneProcess(t *testing.T) {
	t.Parallel()
	target := newSlowTarget(t)
	serve := startProcess(t, nil, "serve", "--listen", "127.0.0.1:0", "--target", target.URL)
	got := batchd(t, threeLines, "submit", "-", "--server", serve.url)
	require.Equal(t, exitOK, got.code, got.stderr)
	target.await(t)
	serve.wait()
	require.NoError(t, serve.Process.Signal(syscall.SIGHUP))
	require.NoError(t, serve.Process.Signal(syscall.SIGHUP))
	target.release()
	serve.requireEnd(t)
	require.Positive(t, target.answers.Load())
}

// nohup ignores SIGHUP for the command that it starts.
func TestAHangupThatIsIgnoredEndsNothing(t *testing.T) {
	t.Parallel()
	target := newSlowTarget(t)
	target.release()
	serve := startProcess(t, []string{"sh", "-c", `trap "" HUP; exec "$0" "$@"`}, "serve", "--listen", "127.0.0.1:0", "--target", target.URL)
	require.NoError(t, serve.Process.Signal(syscall.SIGHUP))
	got := batchd(t, threeLines, "submit", "-", "--wait", "--server", serve.url)
	require.Equal(t, exitOK, got.code, got.stderr)
	serve.wait()
	require.NoError(t, serve.Process.Signal(syscall.SIGTERM))
	serve.requireEnd(t)
}

// The message about a batch whose server died, or that is no longer followed, depends
// on the server's store.
func TestWhatBecomesOfABatchIsSaidAsTheStoreHasIt(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		store, away, interrupted, gone string
		once                           bool // only the answer to the submission names the store
	}{
		{
			"redis", "the server does not answer: batch b1 continues when it is back\n", "interrupted: batch b1 continues without this command\n", "no such batch\n",
			true,
		},
		{"redis", "the server does not answer: batch b1 continues when it is back\n", "interrupted: batch b1 continues without this command\n", "no such batch\n", false},
		{
			"memory", "the server does not answer: batch b1 is gone if the server has ended, because it was kept in the server's memory\n",
			"interrupted: batch b1 continues without this command, as long as the server runs\n", "the batch is gone\n", false,
		},
		{
			"", "the server does not answer: batch b1 continues when it is back, unless the server kept it in memory and has ended\n",
			"interrupted: batch b1 continues without this command, unless the server keeps it in memory and ends\n",
			"if the server kept the batch in its memory and was restarted, the batch is gone\n", false,
		},
	} {
		fake := newFakeServer(t)
		fake.documents = []string{docRunning}
		state := atomic.Int32{}
		front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.Method == http.MethodGet && state.Load() == 1:
				w.Header().Set("Retry-After", "3600") // longer than the command waits
				refuse(w, http.StatusServiceUnavailable, `{"detail":"no"}`)
				return
			case r.Method == http.MethodGet && state.Load() == 2:
				refuse(w, http.StatusNotFound, `{"detail":"no such batch"}`)
				return
			}
			if row.store != "" && (r.Method == http.MethodPost || !row.once) {
				w.Header().Set("Batchd-Store", row.store)
			}
			fake.ServeHTTP(w, r)
		}))
		follow := func(then int32) commandResult {
			state.Store(0)
			stderr := &signalWriter{on: "running", do: func() { state.Store(then) }}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if then == 0 {
				stderr.do = cancel
			}
			code := run(ctx, []string{"submit", file(t, "a.ndjson", threeLines), "--wait", "--server", front.URL}, strings.NewReader(""), io.Discard, stderr)
			return commandResult{code: code, stderr: stderr.text.String()}
		}
		require.Contains(t, follow(1).stderr, row.away, row.store)
		require.Contains(t, follow(0).stderr, row.interrupted, row.store)
		gone := follow(2)
		require.Equal(t, exitFailure, gone.code)
		require.True(t, strings.HasSuffix(gone.stderr, row.gone), gone.stderr)
		front.Close()
	}
}
