// Command batchd serves, runs and submits batches of HTTP actions.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"syscall"
)

func main() { os.Exit(mainCode()) }

// ballast makes the garbage collector wait until that much more was allocated. It
// is never written, so it takes no memory. What batchd holds at a time is small
// beside what passes through it, and the collector would run all the time.
var ballast = make([]byte, 32<<20)

func mainCode() int {
	defer runtime.KeepAlive(ballast)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The first signal ends things in order; a second one ends the process.
	context.AfterFunc(ctx, stop)
	ctx, hangUp := context.WithCancel(ctx)
	defer hangUp()
	onHangup(hangUp)
	return run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
}

// onHangup has the process end in order when its terminal is closed. Several SIGHUP
// come then, from the kernel and from the shell, so that no further one counts: it
// must not cut off the drain that the first one began. Who started the process with
// SIGHUP ignored, as nohup does, wants it to stay.
func onHangup(end func()) {
	if signal.Ignored(syscall.SIGHUP) {
		return
	}
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	go func() {
		<-hangups
		end()
	}()
}

// The exit codes.
const (
	exitOK          = 0
	exitFailure     = 1   // a usage error, or the server could not do what was asked
	exitNotAll      = 2   // the batch ended, and not every action succeeded
	exitInterrupted = 130 // by Ctrl-C, as shells report it
)

// These errors end a command whose output has said all there is to say.
var (
	errNotAllSucceeded = errors.New("not every action succeeded")
	errInterrupted     = errors.New("interrupted")
)

// run executes one command line and returns the exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRootCmd()                      //nolint:contextcheck // the commands take the context that cobra hands on
	root.SetArgs(append([]string{}, args...)) // never nil, for which cobra would take the process's own
	stdout, stderr = plain(stdout), plain(stderr)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errNotAllSucceeded):
		return exitNotAll
	case errors.Is(err, errInterrupted):
		return exitInterrupted
	}
	fmt.Fprintf(stderr, "batchd: %v\n", err)
	return exitFailure
}
