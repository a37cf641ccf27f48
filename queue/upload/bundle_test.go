package upload_test

import (
	"testing"

	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/upload"
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

func local(b *queuetest.Bundle) *bundle { return &bundle{b} }

// Upload returns an upload with n actions, for the owner "me". The caller commits or drops it.
func (b *bundle) Upload(n int) *upload.Upload {
	b.T.Helper()
	return b.Bundle.Upload(n).(*upload.Upload)
}
