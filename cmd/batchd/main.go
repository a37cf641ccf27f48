// Command batchd serves, runs and submits batches of HTTP actions.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/batchd/batchd/queue/rdb"
)

func main() { os.Exit(mainCode()) }

// ballast delays the garbage collector until a further 32 MiB were allocated. It is
// never written, so it takes no physical memory. batchd holds little memory compared
// with what it allocates per second, so without ballast the collector would run all the
// time.
var ballast = make([]byte, 32<<20)

func mainCode() int {
	defer runtime.KeepAlive(ballast)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The first signal starts an orderly shutdown; a second one ends the process.
	context.AfterFunc(ctx, stop)
	ctx, hangUp := context.WithCancel(ctx)
	defer hangUp()
	onHangup(hangUp)
	rdb.SetLogger(slog.New(slog.DiscardHandler)) // a command returns an error; a server sets its own log
	return run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
}

// onHangup shuts the process down in order when its terminal is closed. The kernel and
// the shell may then send several SIGHUPs. Only the first one counts, so that a later
// one does not cut off the drain. If SIGHUP was ignored when the process started, as
// with nohup, the process keeps running.
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
	exitFailure     = 1   // a usage error, or the server refused or failed
	exitNotAll      = 2   // the batch ended, and not every action succeeded
	exitInterrupted = 130 // by Ctrl-C, as shells report it
)

// These errors end a command that has already printed all messages.
var (
	errNotAllSucceeded = errors.New("not every action succeeded")
	errInterrupted     = errors.New("interrupted")
)

// run executes one command line and returns the exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRootCmd()                      //nolint:contextcheck // cobra passes the context to the commands
	root.SetArgs(append([]string{}, args...)) // never nil: for nil, cobra would use the process's own arguments
	stdout, stderr = plain(stdout), plain(stderr)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	strict(root) // last: cobra's command completion writes where the output was when it was added
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
