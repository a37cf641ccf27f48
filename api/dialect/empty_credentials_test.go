package dialect_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/api/dialect"
)

func TestASchemeAloneIsNoCredential(t *testing.T) {
	t.Parallel()
	for value, ok := range map[string]bool{
		"Bearer": false, "bearer ": false, "BASIC": false, "Basic Og==": false, "Basic Og": false, "Token:": false, "Bearer =": false, "DPoP": false,
		"Bearer x": true, "x": true, "secret-without-a-scheme": true, "Basic b2c6": true, "Bearer Og==": true, "Basic OnA=": true,
	} {
		_, err := dialect.ReadCredentials(http.Header{"Authorization": {value}})
		require.Equal(t, ok, err == nil, value)
		if !ok {
			require.ErrorContains(t, err, "is a variable of the client not set?")
		}
	}
}
