// Package redistest starts real Redis servers for tests, on loopback. A test that needs
// one fails if redis-server is missing; it is never skipped.
package redistest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Server is a redis-server process with a data directory of its own.
type Server struct {
	// Addr is host and port. It stays the same after a restart.
	Addr string
	// TLSAddr is that with TLS, or empty if the server has none.
	TLSAddr string

	tb   testing.TB
	args []string
	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{}
	out  bytes.Buffer

	frozen bool
}

// Start starts a server and stops it at the end of the test. The arguments are added to
// its command line.
func Start(tb testing.TB, args ...string) *Server {
	tb.Helper()
	port := FreePort(tb)
	s := &Server{tb: tb, Addr: net.JoinHostPort("127.0.0.1", port)}
	s.args = append([]string{
		"--port", port, "--bind", "127.0.0.1", "--dir", tb.TempDir(), "--save", "", "--databases", "16",
		"--daemonize", "no", "--maxmemory-policy", "noeviction",
	}, args...)
	tb.Cleanup(s.Kill)
	s.Restart()
	return s
}

// URL returns the server's URL.
func (s *Server) URL() string { return "redis://" + s.Addr + "/0" }

// Restart starts the server again after Kill.
func (s *Server) Restart() {
	s.tb.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cmd = exec.Command("redis-server", s.args...)
	s.cmd.Stdout, s.cmd.Stderr = &s.out, &s.out
	if err := s.cmd.Start(); err != nil {
		s.tb.Fatalf("start redis-server (on Debian: apt-get install redis-server): %v", err)
	}
	s.done = make(chan struct{})
	go func(cmd *exec.Cmd, done chan struct{}) {
		_ = cmd.Wait() // Kill always ends it; its output has the details
		close(done)
	}(s.cmd, s.done)
	deadline := time.Now().Add(20 * time.Second)
	for {
		answer, err := s.Command("PING")
		if err == nil && answer == "+PONG" {
			return
		}
		select {
		case <-s.done:
			s.tb.Fatalf("%sredis-server ended:\n%s", advice(s.out.String()), s.out.String())
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			s.tb.Fatalf("redis-server does not answer: %v %v", answer, err)
		}
	}
}

// Kill ends the server like kill -9. A second call does nothing.
func (s *Server) Kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil || s.cmd.Process == nil {
		return
	}
	_ = s.cmd.Process.Kill() // it may have ended already
	<-s.done
	s.cmd, s.frozen = nil, false
}

// Freeze stops the server until Thaw, and keeps its connections open.
func (s *Server) Freeze() {
	s.signal(syscall.SIGSTOP)
	s.mu.Lock()
	s.frozen = true
	s.mu.Unlock()
}

// Thaw continues a frozen server.
func (s *Server) Thaw() {
	s.signal(syscall.SIGCONT)
	s.mu.Lock()
	s.frozen = false
	s.mu.Unlock()
}

// Running reports whether the server was started and is neither killed nor frozen.
func (s *Server) Running() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cmd != nil && !s.frozen
}

func (s *Server) signal(sig syscall.Signal) {
	s.tb.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.tb.Fatalf("signal redis-server: %v", err)
	}
}

// Command sends one command and returns the first line of the answer.
func (s *Server) Command(words ...string) (string, error) {
	conn, err := net.DialTimeout("tcp", s.Addr, time.Second)
	if err != nil {
		return "", fmt.Errorf("dial redis-server: %w", err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second)) // a new connection accepts a deadline
	var request strings.Builder
	writeCommand(&request, words)
	if _, err := conn.Write([]byte(request.String())); err != nil {
		return "", fmt.Errorf("write to redis-server: %w", err)
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("read from redis-server: %w", err)
	}
	line = strings.TrimRight(line, "\r\n")
	if strings.HasPrefix(line, "-") {
		return "", errors.New(line[1:])
	}
	return line, nil
}

func writeCommand(to *strings.Builder, words []string) {
	fmt.Fprintf(to, "*%d\r\n", len(words))
	for _, w := range words {
		fmt.Fprintf(to, "$%d\r\n%s\r\n", len(w), w)
	}
}

// StartSentinel starts a master with a sentinel that knows it as "main", and
// returns the URL.
func StartSentinel(tb testing.TB) string {
	tb.Helper()
	master := Start(tb)
	_, port, _ := net.SplitHostPort(master.Addr) // made by Start
	conf := filepath.Join(tb.TempDir(), "sentinel.conf")
	text := fmt.Sprintf("sentinel monitor main 127.0.0.1 %s 1\nsentinel down-after-milliseconds main 2000\n", port)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		tb.Fatalf("write the sentinel's configuration: %v", err)
	}
	port = FreePort(tb)
	s := &Server{tb: tb, Addr: net.JoinHostPort("127.0.0.1", port)}
	s.args = []string{conf, "--sentinel", "--port", port, "--bind", "127.0.0.1", "--dir", tb.TempDir()}
	tb.Cleanup(s.Kill)
	s.Restart()
	return "redis+sentinel://" + s.Addr + "/0?master=main"
}

// FreePort returns a port on which no process listens. It avoids the ports that the kernel
// assigns to outgoing connections, because the kernel might assign one before it is used.
func FreePort(tb testing.TB) string {
	tb.Helper()
	for range 100 {
		port := strconv.Itoa(16384 + rand.N(16384))
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", port))
		if err == nil {
			_ = l.Close()
			return port
		}
	}
	tb.Fatal("no free port was found")
	return ""
}

// FreeAddr returns an address on loopback with such a port.
func FreeAddr(tb testing.TB) string {
	tb.Helper()
	return net.JoinHostPort("127.0.0.1", FreePort(tb))
}
