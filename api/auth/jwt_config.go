package auth

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/batchd/batchd/internal/setting"
)

// JWTConfig configures the mode jwt: which tokens count, and what they allow.
type JWTConfig struct {
	// Issuer is the URL of the OpenID provider, exactly as it is in the claim iss. Its metadata are at
	// /.well-known/openid-configuration below it. It is https, except on a loopback address. Required by the
	// mode jwt.
	Issuer string `yaml:"issuer"`
	// Audience is the text that the claim aud of a token must have: what the provider calls this server.
	// Required by the mode jwt.
	Audience string `yaml:"audience"`
	// OwnerClaim names the claim with the owner of the batches: a name, or a JSON pointer such as
	// /realm_access/user. Owners of different issuers differ. With email, the claim email_verified must be
	// true; by a pointer such as /user/email, that beside it. Defaults to sub.
	OwnerClaim string `yaml:"owner_claim"`
	// ScopesClaim names the claim with the scopes, likewise: texts, or one text with blanks between them.
	// Batchd knows submit, read and cancel, each also with batchd: in front, and batchd:admin. Others are
	// ignored. Defaults to scope.
	ScopesClaim string `yaml:"scopes_claim"`
	// Scopes add meanings of values in that claim, such as the names of groups. Defaults to none.
	Scopes []ScopeRule `yaml:"scopes"`
	// DefaultScopes are the scopes of a token whose claim has no known one, or that has no such claim.
	// Defaults to none: such a token may do nothing.
	DefaultScopes []Scope `yaml:"default_scopes"`
	// TargetsClaim names the claim with the targets, likewise; "*" in it means all. A token without the claim
	// then has no target. Defaults to none: tokens may use all targets.
	TargetsClaim string `yaml:"targets_claim"`
	// CAFile is a PEM file with the certificate authorities of the issuer. A relative path in a configuration
	// file is relative to the directory of that file. Defaults to none: the system's authorities.
	CAFile string `yaml:"ca_file"`
}

// ScopeRule gives scopes to tokens with a value in the claim of scopes.
type ScopeRule struct {
	// Value is the value, such as the name of a group.
	Value string `yaml:"value"`
	// Grant are the scopes that it gives.
	Grant []Scope `yaml:"grant"`
}

// WithDefaults returns the settings with zero values replaced.
func (c JWTConfig) WithDefaults() JWTConfig {
	if c.OwnerClaim == "" {
		c.OwnerClaim = "sub"
	}
	if c.ScopesClaim == "" {
		c.ScopesClaim = "scope"
	}
	return c
}

// Check reports the faults of the settings. Required: the mode jwt is on.
func (c JWTConfig) Check(check *setting.Checker, required bool) {
	switch {
	case c.Issuer != "":
		check.Check("issuer", checkIssuer(c.Issuer))
	case required:
		check.Faultf("issuer", "the mode jwt needs the URL of the OpenID provider: set it exactly as it is in the claim iss of a token")
	}
	if c.Audience == "" && required {
		check.Faultf("audience", "the mode jwt needs the audience of tokens: otherwise a token for any other application of the issuer would count")
	}
	for key, claim := range map[string]string{"owner_claim": c.OwnerClaim, "scopes_claim": c.ScopesClaim, "targets_claim": c.TargetsClaim} {
		if strings.TrimSpace(claim) != claim || claim == "/" {
			check.Faultf(key, "cannot read %q as a claim: expected a name, or a JSON pointer such as /realm_access/roles", setting.Clip(claim))
		}
	}
	for i, rule := range c.Scopes {
		key := fmt.Sprintf("scopes[%d]", i)
		if check.IsBroken(key) {
			continue
		}
		if rule.Value == "" {
			check.Faultf(key+".value", "the value is missing: expected for example the name of a group")
		}
		if len(rule.Grant) == 0 {
			check.Faultf(key+".grant", "the scopes are missing: expected some of %s", setting.OneOf(Scope("").Choices()))
		}
		checkScopes(check, key+".grant", rule.Grant)
	}
	checkScopes(check, "default_scopes", c.DefaultScopes)
}

func checkScopes(check *setting.Checker, key string, scopes []Scope) {
	for i, scope := range scopes {
		check.Choice(fmt.Sprintf("%s[%d]", key, i), string(scope), scope.Choices())
	}
}

// Choices implements [setting.Choice].
func (Scope) Choices() []string {
	return []string{string(Submit), string(Read), string(Cancel), string(Admin)}
}

// checkIssuer checks the URL of an issuer.
func checkIssuer(text string) error {
	const expected = "expected a URL such as https://login.example.com/realms/main"
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https":
		return fmt.Errorf("cannot read %q as the URL of an issuer: %s", setting.Clip(text), expected)
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.Contains(text, "#"):
		return errors.New("the URL of the issuer has a user, a query or a fragment: " + expected)
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		return errors.New("the issuer is not https, so whoever is in between could forge its keys, and with them every token: " + expected)
	}
	return nil
}
