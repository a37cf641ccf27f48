package batch

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/attacks"
)

func TestAttacksByThePathOfAnAction(t *testing.T) {
	t.Parallel()
	for _, c := range attacks.Read(t, "testdata/attacks/paths.txt") {
		a := Action{Method: "GET", Path: c.Input}
		require.Equal(t, c.Want == "refuse", len(a.Validate()) > 0, "%q: %s: %v", c.Input, c.Why, a.Validate())
	}
}

func TestAttacksByAHeaderOfAnAction(t *testing.T) {
	t.Parallel()
	for _, c := range attacks.Read(t, "testdata/attacks/headers.txt") {
		name, value, _ := strings.Cut(c.Input, ": ")
		a := Action{Method: "GET", Path: "/", Headers: []Field{{name, value}}}
		faults := a.Validate()
		refused := (*Target)(nil).ForbidsHeader(a.Headers[0])
		require.Equal(t, c.Want == "refuse", len(faults) > 0 || refused != "", "%q: %s: %v %s", c.Input, c.Why, faults, refused)
	}
}
