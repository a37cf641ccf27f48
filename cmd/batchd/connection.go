package main

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/batchd/batchd/client"
	"github.com/batchd/batchd/internal/config"
)

const defaultServer = "http://127.0.0.1:8080"

// connection selects the server that a command talks to, and the headers to send.
type connection struct {
	server  string
	headers []string
	trust   trust
}

// flags adds the flags that are common to all commands that talk to a server.
func (c *connection) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&c.server, "server", "", "`URL` of the server (default $BATCHD_SERVER, or else "+defaultServer+")")
	cmd.Flags().StringArrayVar(&c.headers, "header", nil, "send this `'Name: value'` to the server; may be repeated.\n$BATCHD_TOKEN is sent as 'Authorization: Bearer …'")
	c.trust.flags(cmd)
}

func (c *connection) url() string {
	return cmp.Or(c.server, os.Getenv(config.ServerVariable), defaultServer)
}

// token returns the value of BATCHD_TOKEN, or the content of the file that BATCHD_TOKEN_FILE names.
func token() (string, error) {
	token, file := os.Getenv(config.TokenVariable), os.Getenv(config.TokenVariable+"_FILE")
	switch {
	case file == "":
		return token, nil
	case token != "":
		return "", errors.New("BATCHD_TOKEN_FILE: BATCHD_TOKEN is set, too: set only one of them")
	}
	token, err := config.ReadSecret(file)
	if err != nil {
		// The token itself may be in the place of the name of a file, so the error does not repeat it.
		return "", fmt.Errorf("BATCHD_TOKEN_FILE: cannot read the file that it names: %w", err)
	}
	return token, nil
}

// client returns a client. RetryFor is how long it repeats a call while the server is
// unavailable.
func (c *connection) client(retryFor time.Duration) (*client.Client, error) {
	opts := []client.Option{client.WithRetryFor(retryFor)}
	token, err := token()
	if err != nil {
		return nil, err
	}
	if err := errors.Join(checkArgument(config.TokenVariable, token), checkArgument(config.ServerVariable, os.Getenv(config.ServerVariable))); err != nil {
		return nil, err
	}
	for _, h := range c.headers {
		name, value, ok := strings.Cut(h, ":")
		if !ok {
			// The header may be a secret, so the error does not repeat it.
			return nil, errors.New("--header: expected 'Name: value'")
		}
		name = strings.TrimSpace(name)
		if strings.EqualFold(name, "Authorization") {
			token = "" // --header takes precedence over the environment
		}
		opts = append(opts, client.WithHeader(name, strings.TrimSpace(value)))
	}
	if token != "" {
		opts = append(opts, client.WithBearer(token))
	}
	source := "--server"
	if c.server == "" {
		source = config.ServerVariable
	}
	if err := checkScheme(source, c.url()); err != nil {
		return nil, err
	}
	secure, err := c.trust.config()
	if err != nil {
		return nil, err
	}
	if secure != nil {
		opts = append(opts, client.WithTLS(secure))
	}
	return client.New(c.url(), opts...)
}

// run wraps a command's work. It turns an error caused by Ctrl-C into an interruption,
// and adds advice to the error for an unreachable server.
func (c *connection) run(work func(cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		err := work(cmd, args)
		switch {
		case err == nil:
			return nil
		case cmd.Context().Err() != nil:
			return errInterrupted
		case isRefused(err):
			return fmt.Errorf("no server listens at %s: start one with `batchd serve`, or name another with --server or BATCHD_SERVER", c.shown())
		}
		if transport, ok := errors.AsType[*url.Error](err); ok {
			return fmt.Errorf("cannot talk to the server at %s: %w", c.shown(), withAdvice(transport.Err))
		}
		return err
	}
}

// command adds the flag for the present server to a command line.
func (c *connection) command(line string) string {
	if c.server != "" {
		line += " --server " + c.shown()
	}
	return line
}

// shown returns the URL without any secrets in it.
func (c *connection) shown() string {
	u, err := url.Parse(c.url())
	if err != nil {
		return "the given URL"
	}
	return u.Redacted()
}

func isRefused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }
