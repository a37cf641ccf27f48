package throttle

import (
	"embed"

	"github.com/batchd/batchd/queue/rdb"
)

//go:embed lua/*.lua
var luaFiles embed.FS

// Steps are the Lua steps of this package.
var Steps = struct {
	Reserve, Hold *rdb.Step
}{
	Reserve: rdb.LoadStep(luaFiles, "reserve", rdb.TimeLua),
	Hold:    rdb.LoadStep(luaFiles, "hold", rdb.TimeLua),
}
