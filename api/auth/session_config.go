package auth

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/batchd/batchd/internal/setting"
)

// SessionConfig configures the sessions of people who sign in with a browser, by a key or at the OpenID provider.
type SessionConfig struct {
	// URL is the URL by which browsers reach the server, without a path. It is needed behind a proxy that speaks
	// TLS. Defaults to the address of the request.
	URL string `yaml:"url"`
	// Lifetime is the longest that a session lasts, and Idle the longest without a request. Default to 12h and 1h.
	Lifetime time.Duration `yaml:"lifetime"`
	Idle     time.Duration `yaml:"idle"`
	// ClientID and ClientSecret are those of this server at the OpenID provider, which is auth.jwt.issuer. Without
	// an id, people sign in by a key only. The provider redirects to /session/callback. Default to none.
	ClientID     string         `yaml:"client_id"`
	ClientSecret setting.Secret `yaml:"client_secret"`
	// Scopes are what the server asks the provider for. Defaults to openid, profile and email.
	Scopes []string `yaml:"scopes"`
}

// WithDefaults returns the settings with zero values replaced.
func (c SessionConfig) WithDefaults() SessionConfig {
	if c.Lifetime == 0 {
		c.Lifetime = 12 * time.Hour
	}
	if c.Idle == 0 {
		c.Idle = time.Hour
	}
	if len(c.Scopes) == 0 {
		c.Scopes = []string{"openid", "profile", "email"}
	}
	return c
}

// Check reports the faults of the settings.
func (c SessionConfig) Check(check *setting.Checker) {
	if c.URL != "" {
		check.Check("url", checkSessionURL(c.URL))
	}
	check.Duration("lifetime", c.Lifetime, time.Minute, 30*24*time.Hour)
	check.Duration("idle", c.Idle, time.Minute, 30*24*time.Hour)
	if !slices.Contains(c.Scopes, "openid") {
		check.Faultf("scopes", "openid is missing: without it the provider issues no ID token")
	}
	for i, scope := range c.Scopes {
		if scope == "" || strings.ContainsAny(scope, " \t\r\n\"\\") {
			check.Faultf(fmt.Sprintf("scopes[%d]", i), "cannot read %q as a scope: expected one such as openid", setting.Clip(scope))
		}
	}
}

func checkSessionURL(text string) error {
	const expected = "expected one such as https://batchd.example.com"
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https":
		return fmt.Errorf("cannot read %q as a URL: %s", setting.Clip(text), expected)
	case u.Path != "" && u.Path != "/" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return errors.New("the URL has a path, a user, a query or a fragment: " + expected)
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		return errors.New("the URL is not https, so whoever is in between could read the cookie: " + expected)
	}
	return nil
}
