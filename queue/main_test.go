package queue

import (
	"log/slog"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	LogRedis(slog.New(slog.DiscardHandler))
	goleak.VerifyTestMain(pooled{m})
}
