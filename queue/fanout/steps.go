package fanout

import (
	"embed"

	"github.com/batchd/batchd/queue/batches"
	"github.com/batchd/batchd/queue/rdb"
)

//go:embed lua/*.lua
var luaFiles embed.FS

// Steps are the Lua steps of this package. Tests use them to interrupt an exchange at one of them.
var Steps = struct {
	HandOut, Progress, Retry *rdb.Step
}{
	HandOut:  rdb.LoadStep(luaFiles, "hand_out", rdb.TimeLua),
	Progress: rdb.LoadStep(luaFiles, "progress", rdb.TimeLua),
	Retry:    rdb.LoadStep(luaFiles, "retry", rdb.TimeLua, batches.StatesLua, batches.EntryLua, batches.GraceLua),
}
