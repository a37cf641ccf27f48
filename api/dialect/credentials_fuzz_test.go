package dialect_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/api/dialect"
)

// FuzzCredentials compares the owners of two requests: they are the same only if the credentials that
// count are the same.
func FuzzCredentials(f *testing.F) {
	f.Add("Bearer a", "", "", "", "bearer  a", "", "", "")
	f.Add("", "a", "b\nx-user-key: c", "", "", "a\nx-user-key: b", "c", "")
	f.Add("", "", "", "t", "token: t", "", "", "")
	f.Add("x-api-key: a", "", "", "", "", "a", "", "")
	f.Fuzz(func(t *testing.T, a1, k1, u1, t1, a2, k2, u2, t2 string) {
		read := func(authorization, key, user, token string) (dialect.Credentials, bool) {
			h := http.Header{}
			for name, value := range map[string]string{"Authorization": authorization, "X-Api-Key": key, "X-User-Key": user} {
				if strings.ContainsAny(value, "\r\n\x00") {
					return dialect.Credentials{}, false // no server accepts it
				}
				h.Set(name, value)
			}
			c, err := dialect.ReadCredentials(h)
			if err == nil {
				c, err = c.WithToken(url.Values{"token": {token}})
			}
			return c, err == nil
		}
		one, ok1 := read(a1, k1, u1, t1)
		two, ok2 := read(a2, k2, u2, t2)
		if !ok1 || !ok2 || one.Identity() != two.Identity() {
			return
		}
		spelt := func(c dialect.Credentials) string {
			scheme, rest, found := strings.Cut(strings.TrimSpace(c.Authorization), " ")
			if found {
				scheme = strings.ToLower(scheme)
			}
			return scheme + " " + strings.TrimSpace(rest)
		}
		switch {
		case one.Authorization != "" || two.Authorization != "":
			require.Equal(t, spelt(one), spelt(two))
		case one.APIKey != "" || one.UserKey != "" || two.APIKey != "" || two.UserKey != "":
			require.Equal(t, [2]string{one.APIKey, one.UserKey}, [2]string{two.APIKey, two.UserKey})
		default:
			require.Equal(t, one.Token, two.Token)
		}
	})
}
