package dialect

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/batchd/batchd/internal/apikey"
	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/intake"
)

// Credentials are the credentials of a request, in any dialect.
type Credentials struct {
	Authorization string
	// APIKey and UserKey come as X-API-KEY and X-USER-KEY.
	APIKey  string
	UserKey string
	// Token comes from the query.
	Token string
}

// ReadCredentials returns the credentials in the header of a request.
func ReadCredentials(h http.Header) (c Credentials, err error) {
	for _, at := range []struct {
		to   *string
		name string
	}{{&c.Authorization, "Authorization"}, {&c.APIKey, "X-Api-Key"}, {&c.UserKey, "X-User-Key"}} {
		if *at.to, err = only(at.name+" header", h.Values(at.name)); err != nil {
			return Credentials{}, err
		}
	}
	if isEmpty(c.Authorization) {
		return Credentials{}, &UnauthorizedError{"the Authorization header has a scheme but no credential: is a variable of the client not set?"}
	}
	return c, nil
}

// schemes are the authentication schemes that have a credential behind their name, in lower case: those that IANA
// registers, and some that are in use.
var schemes = []string{
	"apikey", "api-key", "aws4-hmac-sha256", "basic", "bearer", "concealed", "digest", "dpop", "gnap", "hmac", "hoba", "key", "mutual", "negotiate", "ntlm",
	"oauth", "privatetoken", "scram-sha-1", "scram-sha-256", "sharedkey", "token", "vapid",
}

// isEmpty reports whether an Authorization has a scheme and nothing behind it, or an empty name and password. All
// clients with this mistake would be one owner.
func isEmpty(authorization string) bool {
	scheme, rest, _ := strings.Cut(strings.ToLower(strings.TrimSpace(authorization)), " ")
	switch strings.TrimRight(strings.TrimSpace(rest), "=") {
	case "":
		return slices.Contains(schemes, strings.TrimSuffix(scheme, ":"))
	case "og": // ":" in base64
		return scheme == "basic"
	}
	return false
}

// Authorization returns the Authorization of a request alone. In the native format and in most dialects it
// identifies the client.
func Authorization(h http.Header) (Credentials, error) {
	c, err := ReadCredentials(h)
	return Credentials{Authorization: c.Authorization}, err
}

// WithToken adds the token in the query of a request.
func (c Credentials) WithToken(query url.Values) (Credentials, error) {
	var err error
	c.Token, err = only("token in the query", query["token"])
	return c, err
}

// headers returns the headers in which the dialects pass credentials on.
func (c Credentials) headers() []batch.Field {
	headers := []batch.Field{{Name: "Authorization", Value: c.Authorization}, {Name: "X-API-KEY", Value: c.APIKey}, {Name: "X-USER-KEY", Value: c.UserKey}}
	return slices.DeleteFunc(headers, func(h batch.Field) bool { return h.Value == "" })
}

// searched returns the headers in which the dialects pass credentials on, without those that have a key of batchd
// in them.
func (c Credentials) searched() []batch.Field {
	return slices.DeleteFunc(c.headers(), func(h batch.Field) bool { return apikey.InValue(h.Value) })
}

// Action returns a request of the target's configuration with the credentials and nothing else, or an
// [UnauthorizedError] if they have a key of batchd in them.
func (c Credentials) Action(call batch.Call) (*batch.Action, error) {
	a := &batch.Action{Method: call.Method, Path: call.Path, Headers: c.headers()}
	if len(c.searched()) < len(a.Headers) || apikey.InValue(c.Token) {
		return nil, &UnauthorizedError{"the credential is a key of batchd, which is never sent to a target: send the key in X-Batchd-Key"}
	}
	if c.Token != "" {
		a.Query = tokenQuery(c.Token)
	}
	return a, nil
}

// tokenQuery returns the query that passes a token on.
func tokenQuery(token string) string { return "token=" + intake.EscapeQueryPart(token) }

// only returns the single value, or "" if there is none. It refuses a second value,
// because the owner of the request would be ambiguous.
func only(what string, values []string) (string, error) {
	switch len(values) {
	case 0:
		return "", nil
	case 1:
		if len(values[0]) > batch.MaxHeaderLength {
			return "", &UnauthorizedError{fmt.Sprintf("the %s has %d bytes: at most %d are allowed", what, len(values[0]), batch.MaxHeaderLength)}
		}
		if !utf8.ValidString(values[0]) {
			return "", &UnauthorizedError{fmt.Sprintf("the %s is not UTF-8", what)}
		}
		return values[0], nil
	}
	return "", &UnauthorizedError{fmt.Sprintf("the %s is present %d times: expected one", what, len(values))}
}

// Identity returns one text for the credential that identifies the client, or "" if
// there is none. Only a credential that the target checks may distinguish owners:
// otherwise a client could evade a limit with a meaningless header. The text is as
// secret as the credential.
func (c Credentials) Identity() string {
	switch {
	case c.Authorization != "":
		// RFC 9110 §11.1: the scheme's case does not matter.
		scheme, rest, found := strings.Cut(strings.TrimSpace(c.Authorization), " ")
		if !found {
			return "authorization: " + scheme
		}
		return "authorization: " + strings.ToLower(scheme) + " " + strings.TrimSpace(rest)
	case c.APIKey != "" || c.UserKey != "": // the key of an application, and the key of one of its users
		return "x-api-key: " + c.APIKey + "\nx-user-key: " + c.UserKey
	case c.Token != "":
		return "token: " + c.Token
	}
	return ""
}
