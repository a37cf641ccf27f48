package api

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/attacks"
	"github.com/batchd/batchd/internal/batch"
)

func TestAttacksByTheJSONOfASubmission(t *testing.T) {
	t.Parallel()
	for _, c := range attacks.Read(t, "testdata/attacks/json.txt") {
		d := newDecoder(rules{limits: DefaultLimits(), targets: []string{"a", "b"}}, func(*batch.Action) error { return nil })
		b, err := openBody(httptest.NewRequest(http.MethodPost, "/", strings.NewReader(c.Input)), bodiesOf(1<<20))
		require.NoError(t, err)
		_, err = d.readJSON(b)
		require.Equal(t, c.Want == "refuse", err != nil, "%q: %s: %v", c.Input, c.Why, err)
		b.Close()
	}
}
