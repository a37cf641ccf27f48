package apikeys_test

import (
	"testing"

	"github.com/batchd/batchd/queue/queuetest"
)

func TestMain(m *testing.M) { queuetest.Main(m) }
