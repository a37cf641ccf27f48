package auth

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/batchd/batchd/internal/setting"
)

// Mode is a way to determine the owner of a request.
type Mode string

// The authentication modes.
const (
	// ModeKeys: the request has a key that batchd made.
	ModeKeys Mode = "keys"
	// ModeJWT: the request has a token that an OpenID provider signed.
	ModeJWT Mode = "jwt"
	// ModePassthrough: the request has the credential of the target, which is sent with every action that
	// has none of its own. Its keyed hash is the owner.
	ModePassthrough Mode = "passthrough"
	// ModeNone: all clients are the same owner. The server does not forward an Authorization header to the
	// target.
	ModeNone Mode = "none"
)

// Choices implements [setting.Choice].
func (Mode) Choices() []string {
	return []string{string(ModeKeys), string(ModeJWT), string(ModePassthrough), string(ModeNone)}
}

// Config configures who may submit batches.
type Config struct {
	// Modes are the ways in which clients may authenticate. For each request the server looks for a
	// credential of the modes in the order keys, jwt, passthrough, whatever their order here. None is
	// possible only alone. Defaults to none.
	Modes []Mode `yaml:"modes"`
	// AllowOpenListener lets the mode none listen on an address that is not a loopback address, where every
	// client that reaches it may submit batches and read all results. Defaults to false.
	AllowOpenListener bool `yaml:"allow_open_listener"`
	// Hosts are the names, host or host:port, by which clients reach the server in the mode none, beside the
	// listen address and localhost. The server refuses a request with another Host: a web page could reach
	// the server under a name of its own. Defaults to none.
	Hosts []string `yaml:"hosts"`
	// KeysFile is a file with keys of batchd: the hashes of their secrets, and what they may do. A process
	// reads it again when it changes. While it does not exist, no key is valid. If it then has a fault, or cannot be read, the process refuses all keys
	// after 4 s with 503, so that no revocation is undone, until the file is right again. A relative path in a configuration file is relative to the directory
	// of that file. Without a file, keys are in Redis. Defaults to none.
	KeysFile string `yaml:"keys_file"`
	// JWT configures the mode jwt.
	JWT JWTConfig `yaml:"jwt"`
	// Sessions configures the sessions of people who sign in with a browser, in the modes keys and jwt.
	Sessions SessionConfig `yaml:"sessions"`
}

// WithDefaults returns the settings with zero values replaced.
func (c Config) WithDefaults() Config {
	if len(c.Modes) == 0 {
		c.Modes = []Mode{ModeNone}
	}
	c.JWT = c.JWT.WithDefaults()
	c.Sessions = c.Sessions.WithDefaults()
	return c
}

// Has reports whether a mode is among the configured ones.
func (c Config) Has(mode Mode) bool { return slices.Contains(c.Modes, mode) }

// isHost matches host and host:port; an IPv6 address has brackets.
var isHost = regexp.MustCompile(`^([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[1-9][0-9]{0,4})?$`)

// CheckListener refuses a listener on an address, host:port, that other machines reach, if requests need no
// credential.
func (c Config) CheckListener(address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil || !c.Has(ModeNone) || c.AllowOpenListener || isLoopback(host) {
		return nil //nolint:nilerr // an address that cannot be read is a fault of its own
	}
	return fmt.Errorf("%s is not a loopback address, and without authentication every client that reaches it may submit batches and read all results: "+
		"set auth.modes to keys or passthrough, listen on 127.0.0.1, or accept this with auth.allow_open_listener: true", setting.Clip(address))
}

// PlainListener returns a warning if the credentials of clients cross a network in clear text to a listener of plain
// HTTP on an address, host:port. Otherwise it returns "".
func (c Config) PlainListener(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil || c.Has(ModeNone) || isLoopback(host) {
		return ""
	}
	return "clients send their credentials to this listener in clear text: set server.tls, or let only a proxy that speaks TLS reach it"
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback() || strings.EqualFold(host, "localhost")
}

// Check reports the faults of the settings.
func (c Config) Check(check *setting.Checker) {
	for i, mode := range c.Modes {
		key := fmt.Sprintf("modes[%d]", i)
		check.Choice(key, string(mode), mode.Choices())
		if slices.Contains(c.Modes[:i], mode) {
			check.Faultf(key, "the mode %s is in the list twice", mode)
		}
	}
	if c.Has(ModeNone) && len(c.Modes) > 1 {
		check.Faultf("modes", "none accepts every request, so no other mode would count: set none alone, or leave it out")
	}
	c.JWT.Check(check.In("jwt"), c.Has(ModeJWT))
	c.Sessions.Check(check.In("sessions"))
	for i, host := range c.Hosts {
		if !isHost.MatchString(host) {
			check.Faultf(fmt.Sprintf("hosts[%d]", i), "cannot read %q as a host: expected host or host:port, for example batchd.example.com", setting.Clip(host))
		}
	}
}
