package dialect

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// Credentials are what a caller identifies itself with, in any dialect.
type Credentials struct {
	Authorization string
	// APIKey and UserKey come as X-API-KEY and X-USER-KEY.
	APIKey  string
	UserKey string
	// Token comes in the query.
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
	return c, nil
}

// WithToken adds the token in the query of a request.
func (c Credentials) WithToken(query url.Values) (Credentials, error) {
	var err error
	c.Token, err = only("token in the query", query["token"])
	return c, err
}

// only returns the one value there is, or nothing. It refuses a second one,
// because it would not be known whose request it is.
func only(what string, values []string) (string, error) {
	switch len(values) {
	case 0:
		return "", nil
	case 1:
		return values[0], nil
	}
	return "", &UnauthorizedError{fmt.Sprintf("the %s is there %d times: expected one", what, len(values))}
}

// Identity returns one text for all credentials, empty where there are none. It
// is as secret as they are.
func (c Credentials) Identity() string {
	if c.APIKey == "" && c.UserKey == "" && c.Token == "" {
		return c.Authorization
	}
	// No header holds a line break, and the token comes last.
	return strings.Join([]string{"authorization: " + c.Authorization, "x-api-key: " + c.APIKey, "x-user-key: " + c.UserKey, "token: " + c.Token}, "\n")
}
