package auth_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/api/auth"
	"github.com/batchd/batchd/api/dialect"
	"github.com/batchd/batchd/internal/setting"
)

func TestModesAreChecked(t *testing.T) {
	t.Parallel()
	for want, modes := range map[string][]auth.Mode{
		"":                                    {auth.ModePassthrough},
		`modes[0]: unknown value "magic"`:     {"magic"},
		"modes[1]: the mode passthrough is":   {auth.ModePassthrough, auth.ModePassthrough},
		"modes: none accepts every request, ": {auth.ModePassthrough, auth.ModeNone},
	} {
		var faults setting.Faults
		auth.Config{Modes: modes}.WithDefaults().Check(setting.NewChecker(&faults))
		if want == "" {
			require.NoError(t, faults.Err())
		} else {
			require.ErrorContains(t, faults.Err(), want)
		}
	}
	require.Equal(t, []auth.Mode{auth.ModeNone}, auth.Config{}.WithDefaults().Modes)
}

type fixed struct {
	p   *auth.Principal
	err error
}

func (f fixed) Authenticate(context.Context, *http.Request) (*auth.Principal, error) {
	return f.p, f.err
}

func TestTheFirstAuthenticatorWithACredentialDecides(t *testing.T) {
	t.Parallel()
	alice, bob := &auth.Principal{Name: "alice"}, &auth.Principal{Name: "bob"}
	refused := &dialect.UnauthorizedError{Detail: "no"}
	for _, row := range []struct {
		chain auth.Chain
		want  fixed
	}{
		{nil, fixed{}},
		{auth.Chain{fixed{}, fixed{}}, fixed{}},
		{auth.Chain{fixed{}, fixed{p: alice}, fixed{p: bob}}, fixed{p: alice}},
		{auth.Chain{fixed{err: refused}, fixed{p: bob}}, fixed{err: refused}}, // a bad credential is not tried as another kind
	} {
		p, err := row.chain.Authenticate(t.Context(), httptest.NewRequest(http.MethodGet, "/", http.NoBody))
		require.Equal(t, row.want.p, p)
		require.Equal(t, row.want.err, err)
	}
}
