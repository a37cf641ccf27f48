package index

import (
	"embed"

	"github.com/batchd/batchd/queue/rdb"
)

//go:embed lua/*.lua
var luaFiles embed.FS

// Steps are the Lua steps of this package.
var Steps = struct {
	Alert, Reopen, Unlist *rdb.Step
}{
	Alert:  rdb.LoadStep(luaFiles, "alert"),
	Reopen: rdb.LoadStep(luaFiles, "reopen", rdb.TimeLua),
	Unlist: rdb.LoadStep(luaFiles, "unlist"),
}
