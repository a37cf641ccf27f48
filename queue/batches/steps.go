package batches

import (
	"embed"

	"github.com/batchd/batchd/queue/rdb"
)

//go:embed lua/*.lua
var luaFiles embed.FS

// Lua is a library of the steps on batches. It needs [rdb.TimeLua].
//
//go:embed lua/lib.lua
var Lua string

// Steps are the Lua steps of this package.
var Steps = struct {
	Alert, Reopen, Unlist, Stop, Erase, Due, Enqueued, Delivered, Redeliver, Snapshot *rdb.Step
}{
	Alert:     rdb.LoadStep(luaFiles, "alert"),
	Reopen:    rdb.LoadStep(luaFiles, "reopen", rdb.TimeLua),
	Unlist:    rdb.LoadStep(luaFiles, "unlist"),
	Stop:      rdb.LoadStep(luaFiles, "stop", rdb.TimeLua, Lua),
	Erase:     rdb.LoadStep(luaFiles, "erase"),
	Due:       rdb.LoadStep(luaFiles, "due", rdb.TimeLua),
	Enqueued:  rdb.LoadStep(luaFiles, "enqueued"),
	Delivered: rdb.LoadStep(luaFiles, "delivered", rdb.TimeLua),
	Redeliver: rdb.LoadStep(luaFiles, "redeliver"),
	Snapshot:  rdb.LoadStep(luaFiles, "snapshot", rdb.TimeLua, Lua),
}
