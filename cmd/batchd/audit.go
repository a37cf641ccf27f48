package main

import (
	"errors"
	"log/slog"
	"os"
	"os/user"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/batchd/batchd/internal/audit"
	"github.com/batchd/batchd/internal/batch"
)

// modeCommand is the mode of events of commands, which need no key but access to the store.
const modeCommand = "cli"

// audited calls do, and writes what came of it to the audit log. The log is opened first: without it nothing is
// changed. If it is standard output, the line goes to standard error: the output of a command is its result.
func audited(cmd *cobra.Command, cfg audit.Config, e audit.Event, do func(*audit.Event) error) (err error) {
	stderr := unwrapped(cmd.ErrOrStderr())
	log, err := audit.Open(cfg, stderr, slog.New(slog.NewTextHandler(stderr, nil)), nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	e.Mode, e.Actor, e.Result = modeCommand, userName(), audit.OK
	err = do(&e)
	switch {
	case errors.As(err, new(*batch.UnavailableError)):
		e.Result = audit.Failed
	case err != nil && e.Result == audit.OK:
		e.Result = audit.Refused
	}
	log.Record(e)
	return err
}

// userName returns the name of the user who runs the process, or its number.
func userName() string {
	if u, err := user.Current(); err == nil && u.Username != "" {
		return u.Username
	}
	return "uid:" + strconv.Itoa(os.Getuid())
}
