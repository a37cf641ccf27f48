package reseal

import (
	"embed"

	"github.com/batchd/batchd/queue/rdb"
)

//go:embed lua/*.lua
var luaFiles embed.FS

// Steps are the Lua steps of this package.
var Steps = struct{ Stale, Swap *rdb.Step }{
	Stale: rdb.LoadStep(luaFiles, "stale"),
	Swap:  rdb.LoadStep(luaFiles, "swap"),
}
