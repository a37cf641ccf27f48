package auth

import (
	"crypto/sha256"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestSignInsAreBoundedInTimeAndMemory(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e, asked := newExchanges(), 0
		secret := func(n int) []byte { return fmt.Appendf(nil, "secret %d", n) }
		start := time.Now()
		for n := range 60_000 { // over more than two lifetimes of a sign-in
			if e.take(secret(n), fmt.Sprint("address ", n)) == nil {
				asked++
				require.ErrorIs(t, e.take(secret(n), "another"), errLogin)
			}
			time.Sleep(25 * time.Millisecond)
			require.LessOrEqual(t, len(e.clients), mostClients+1)
		}
		most := int(time.Since(start).Seconds())*exchangeRate + exchangeBurst + 1
		require.LessOrEqual(t, asked, most)
		require.LessOrEqual(t, len(e.used)+len(e.before), 2*(int(loginTime.Seconds())*exchangeRate+exchangeBurst))

		require.NoError(t, e.take(secret(-1), "last"))
		time.Sleep(loginTime - time.Second)
		require.ErrorIs(t, e.take(secret(-1), "last"), errLogin, "its cookie still counts")
		time.Sleep(2 * loginTime)
		require.NoError(t, e.take(secret(-2), "last"))
		require.NotContains(t, e.before, sha256.Sum256(secret(-1)))
		require.NotContains(t, e.used, sha256.Sum256(secret(-1)))
	})
}
