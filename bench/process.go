package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// startTimeout bounds the time until a process is ready.
const startTimeout = 20 * time.Second

// process is a child process. It is killed when this program ends, in any way.
type process struct {
	name string
	pid  int
	log  string // the file with its output
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
}

// startProcess starts a child that writes into a log in dir.
func startProcess(dir, name, program string, args ...string) (*process, error) {
	log, err := os.CreateTemp(dir, name+"-*.log")
	if err != nil {
		return nil, fmt.Errorf("make the log of %s: %w", name, err)
	}
	defer log.Close()
	// Only stop ends it; its owner always calls stop.
	cmd := exec.Command(program, args...) //nolint:gosec,noctx // the program is one of three, and the arguments are ours
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = dieWithParent()
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &process{name: name, pid: cmd.Process.Pid, log: log.Name(), cmd: cmd, done: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // its state has the exit code
		close(p.done)
	}()
	return p, nil
}

// await returns the first submatch of the pattern in the output of the process, as soon
// as it appears.
func (p *process) await(ctx context.Context, pattern *regexp.Regexp) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("%s is not ready after %s", p.name, startTimeout))
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for ended := false; ; {
		text, err := os.ReadFile(p.log)
		if err != nil {
			return "", fmt.Errorf("read the log of %s: %w", p.name, err)
		}
		if found := pattern.FindSubmatch(text); found != nil {
			return string(found[len(found)-1]), nil
		}
		if ended {
			return "", fmt.Errorf("%s ended (%s):\n%s", p.name, p.cmd.ProcessState, p.tail(10))
		}
		select {
		case <-tick.C:
		case <-p.done:
			ended = true // its last line may have come since
		case <-ctx.Done():
			return "", fmt.Errorf("%w:\n%s", context.Cause(ctx), p.tail(10))
		}
	}
}

// tail returns the last lines of the log.
func (p *process) tail(n int) string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// stop kills the process, and returns when it is gone.
func (p *process) stop() {
	_ = p.cmd.Process.Kill() // it may have ended already
	<-p.done
}

// buildBatchd builds the binary under test, as a user would.
func buildBatchd(ctx context.Context, dir string) (string, error) {
	binary := filepath.Join(dir, "batchd")
	build := exec.CommandContext(ctx, "go", "build", "-o", binary, "github.com/batchd/batchd/cmd/batchd") //nolint:gosec // the path is ours
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build batchd: %w\n%s", err, out)
	}
	return binary, nil
}
