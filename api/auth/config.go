package auth

import (
	"fmt"
	"slices"

	"github.com/batchd/batchd/internal/setting"
)

// Mode is a way to determine the owner of a request.
type Mode string

// The authentication modes.
const (
	// ModeKeys: the request has a key that batchd made.
	ModeKeys Mode = "keys"
	// ModeJWT: the request has a token of an OpenID provider.
	ModeJWT Mode = "jwt"
	// ModePassthrough: the request has the credential of the target, which is sent with every action that
	// has none of its own. Its keyed hash is the owner.
	ModePassthrough Mode = "passthrough"
	// ModeNone: all clients are the same owner. The server does not forward an Authorization header to the
	// target.
	ModeNone Mode = "none"
)

// Choices implements [setting.Choice].
func (Mode) Choices() []string { return []string{string(ModePassthrough), string(ModeNone)} }

// Config configures who may submit batches.
type Config struct {
	// Modes are the ways in which clients may authenticate. For each request the server looks for a
	// credential of the modes in the order keys, jwt, passthrough, whatever their order here. None is
	// possible only alone. Defaults to none.
	Modes []Mode `yaml:"modes"`
}

// WithDefaults returns the settings with zero values replaced.
func (c Config) WithDefaults() Config {
	if len(c.Modes) == 0 {
		c.Modes = []Mode{ModeNone}
	}
	return c
}

// Has reports whether a mode is among the configured ones.
func (c Config) Has(mode Mode) bool { return slices.Contains(c.Modes, mode) }

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
}
