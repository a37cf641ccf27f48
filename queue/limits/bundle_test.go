package limits_test

import (
	"testing"

	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/rdb"
)

// bundle is what a test works with.
type bundle struct{ *queuetest.Bundle }

func onEveryStore(t *testing.T, test func(t *testing.T, b *bundle)) {
	t.Helper()
	queuetest.OnEveryStore(t, func(t *testing.T, b *queuetest.Bundle) { test(t, local(b)) })
}

func open(t *testing.T) *bundle {
	t.Helper()
	return local(queuetest.Open(t, rdb.Embedded))
}

func local(b *queuetest.Bundle) *bundle { return &bundle{b} }
