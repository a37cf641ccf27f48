package fanout_test

import (
	"testing"

	"github.com/batchd/batchd/internal/redistest"
	"github.com/batchd/batchd/queue/queuetest"
)

// bundle is what a test works with.
type bundle struct{ *queuetest.Bundle }

func onEveryStore(t *testing.T, test func(t *testing.T, b *bundle)) {
	t.Helper()
	queuetest.OnEveryStore(t, func(t *testing.T, b *queuetest.Bundle) { test(t, local(b)) })
}

func open(t *testing.T, url string) *bundle {
	t.Helper()
	return local(queuetest.Open(t, url))
}

func behindProxy(t *testing.T) (*bundle, *redistest.Proxy) {
	t.Helper()
	b, p := queuetest.BehindProxy(t)
	return local(b), p
}

func local(b *queuetest.Bundle) *bundle { return &bundle{b} }
