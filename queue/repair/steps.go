package repair

import (
	"embed"

	"github.com/batchd/batchd/queue/rdb"
)

//go:embed lua/*.lua
var luaFiles embed.FS

// Steps are the Lua steps of this package. The header of each file in lua has its keys, arguments and
// reply.
var Steps = struct {
	DueBatches, ForgetWorker, Elect, Resign, Running *rdb.Step
}{
	DueBatches:   rdb.LoadStep(luaFiles, "due_batches", rdb.TimeLua),
	ForgetWorker: rdb.LoadStep(luaFiles, "forget_worker", rdb.TimeLua),
	Elect:        rdb.LoadStep(luaFiles, "elect"),
	Resign:       rdb.LoadStep(luaFiles, "resign"),
	Running:      rdb.LoadStep(luaFiles, "running"),
}
