package rdb

import (
	"log/slog"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	SetLogger(slog.New(slog.DiscardHandler))
	goleak.VerifyTestMain(m)
}
