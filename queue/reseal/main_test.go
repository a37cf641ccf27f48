package reseal_test

import (
	"log/slog"
	"testing"

	"go.uber.org/goleak"

	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/rdb"
)

func TestMain(m *testing.M) {
	rdb.SetLogger(slog.New(slog.DiscardHandler))
	goleak.VerifyTestMain(queuetest.Pooled{M: m})
}
