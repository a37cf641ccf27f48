// Package webhook says which receivers of webhooks batchd may call, and signs what it
// sends to them. The API checks the URL in a submission; the worker checks it again, and
// the address that it dials.
package webhook

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"

	"github.com/batchd/batchd/internal/setting"
)

// Config has the settings of webhooks.
type Config struct {
	// Secret is the secret from which the secret of each owner is derived, in the form of
	// Standard Webhooks: "whsec_" and the base64 of 24 to 64 bytes. Defaults to none; then
	// no webhooks are delivered.
	Secret setting.Secret `yaml:"secret"`
	// PreviousSecret is the secret that Secret replaces. While it is set, webhooks have
	// two signatures, so that receivers can change to the new one. Defaults to none.
	PreviousSecret setting.Secret `yaml:"previous_secret"`
	// AllowPrivate allows webhooks to loopback and private addresses. Defaults to false.
	AllowPrivate bool `yaml:"allow_private"`
	// Ports are the ports that webhooks may be sent to. Nil allows every port. Defaults to
	// 80 and 443, and to every port with AllowPrivate.
	Ports []int `yaml:"ports"`
	// Hosts say which hosts an owner's webhooks may name. The first rule that matches the
	// owner counts; an owner without a rule may name none. Defaults to every host for all.
	Hosts []HostRule `yaml:"hosts"`
}

// HostRule lists the hosts that webhooks of some owners may name.
type HostRule struct {
	// Owner is a pattern of owners, in which "*" stands for any text. The owner of a key's
	// batches is "key:" and the owner of the key, that of a token's batches "jwt:", a hash of
	// the issuer, ":" and the claim, and that of a credential that is passed through 32
	// hexadecimal digits.
	Owner string `yaml:"owner"`
	// Allow lists names of hosts. "*.example.com" stands for all names below example.com,
	// and "*" for every host. An empty list allows none.
	Allow []string `yaml:"allow"`
}

// WithDefaults returns the settings with zero values replaced.
func (c Config) WithDefaults() Config {
	if c.Ports == nil && !c.AllowPrivate {
		c.Ports = []int{80, 443}
	}
	return c
}

// everyHost is the pattern of every host.
const everyHost = "*"

// isOwner matches the patterns that an owner can match.
var isOwner = regexp.MustCompile(`^(\*.*|(key|jwt):.+|k(ey?)?\*.*|j(wt?)?\*.*|anonymous|[0-9a-f]{32}|[0-9a-f]{0,31}\*[0-9a-f*]*)$`)

var hostPattern = regexp.MustCompile(`^(\*\.)?([a-z0-9_]([a-z0-9_-]*[a-z0-9_])?\.)*[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?$`)

// maxHost is the length of the longest host.
const maxHost = 255

// CheckHost checks a pattern of hosts that webhooks may name.
func CheckHost(host string) error {
	if len(host) <= maxHost && (host == everyHost || hostPattern.MatchString(strings.ToLower(host))) {
		return nil
	}
	if ip, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil && ip.Zone() == "" {
		return nil
	}
	return fmt.Errorf("%q is not a host: expected one such as hooks.example.com, *.example.com or *, without a port", setting.Clip(host))
}

// Check reports the faults of the settings.
func (c Config) Check(check *setting.Checker) {
	check.Check("secret", CheckSecret(c.Secret.Reveal()))
	check.Check("previous_secret", CheckSecret(c.PreviousSecret.Reveal()))
	switch {
	case c.PreviousSecret == "" || check.IsBroken("secret"):
	case c.Secret == "":
		check.Faultf("previous_secret", "there is no webhooks.secret that replaces it: set that one")
	case c.Secret == c.PreviousSecret:
		check.Faultf("previous_secret", "it is the same as webhooks.secret: leave it out, or set the one before")
	}
	for i, port := range c.Ports {
		check.Int(fmt.Sprintf("ports[%d]", i), port, 1, 65535)
	}
	for i, rule := range c.Hosts {
		key := fmt.Sprintf("hosts[%d]", i)
		if check.IsBroken(key) {
			continue
		}
		switch {
		case rule.Owner == "":
			check.Faultf(key+".owner", "the owner is missing: expected a name, or a pattern such as key:team-* or *")
		case !isOwner.MatchString(rule.Owner):
			check.Faultf(key+".owner", "%q matches no owner: an owner is key:NAME, jwt:HASH:NAME or 32 hexadecimal digits, so expected a pattern such as key:team-* or *", setting.Clip(rule.Owner))
		}
		if rule.Allow == nil {
			check.Faultf(key+".allow", "the list is missing: expected hosts such as hooks.example.com or *.example.com, or [] for none")
		}
		for j, host := range rule.Allow {
			check.Check(fmt.Sprintf("%s.allow[%d]", key, j), CheckHost(host))
		}
	}
}

// SecretPrefix is the beginning of every secret.
const SecretPrefix = "whsec_"

// CheckSecret checks a secret against Standard Webhooks, "Signature scheme". An empty
// text is no fault. The error does not repeat the secret.
func CheckSecret(secret string) error {
	const (
		least    = 24
		most     = 64
		expected = "expected " + SecretPrefix + " and the base64 of 24 to 64 bytes: make one with: echo " + SecretPrefix + "$(openssl rand -base64 32)"
	)
	if secret == "" {
		return nil
	}
	encoded, ok := strings.CutPrefix(secret, SecretPrefix)
	if !ok {
		return errors.New("the secret does not start with " + SecretPrefix + ": " + expected)
	}
	raw, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return errors.New("the secret is not valid base64: " + expected)
	}
	if len(raw) < least || len(raw) > most {
		return fmt.Errorf("the secret has %d bytes: %s", len(raw), expected)
	}
	return nil
}
