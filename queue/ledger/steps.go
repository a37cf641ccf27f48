package ledger

import (
	"embed"

	"github.com/batchd/batchd/queue/batches"
	"github.com/batchd/batchd/queue/rdb"
)

//go:embed lua/*.lua
var luaFiles embed.FS

// Steps are the Lua steps of this package.
var Steps = struct {
	Beat, Begin, Finish, Release, Restore, Disown, SaveGroup, FinishGroup *rdb.Step
}{
	Beat:        rdb.LoadStep(luaFiles, "beat", rdb.TimeLua),
	Begin:       rdb.LoadStep(luaFiles, "begin", rdb.TimeLua, batches.Lua),
	Finish:      rdb.LoadStep(luaFiles, "finish", rdb.TimeLua, batches.Lua),
	Release:     rdb.LoadStep(luaFiles, "release", rdb.TimeLua, batches.Lua),
	Restore:     rdb.LoadStep(luaFiles, "restore", rdb.TimeLua, batches.Lua),
	Disown:      rdb.LoadStep(luaFiles, "disown", rdb.TimeLua, batches.Lua),
	SaveGroup:   rdb.LoadStep(luaFiles, "save_group", rdb.TimeLua, batches.Lua),
	FinishGroup: rdb.LoadStep(luaFiles, "finish_group", rdb.TimeLua, batches.Lua),
}
