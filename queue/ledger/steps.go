package ledger

import (
	"embed"

	"github.com/batchd/batchd/queue/batches"
	"github.com/batchd/batchd/queue/rdb"
)

//go:embed lua/*.lua
var luaFiles embed.FS

//go:embed lua/groups.lua
var groupsLua string

// Steps are the Lua steps of this package. The header of each file in lua has its keys, arguments and
// reply.
var Steps = struct {
	Beat, Begin, Finish, Release, Restore, Disown, SaveGroup, FinishGroup *rdb.Step
}{
	Beat:        rdb.LoadStep(luaFiles, "beat", rdb.TimeLua),
	Begin:       rdb.LoadStep(luaFiles, "begin", rdb.TimeLua, batches.StatesLua, batches.EntryLua, batches.SettleLua, groupsLua),
	Finish:      rdb.LoadStep(luaFiles, "finish", rdb.TimeLua, batches.StatesLua, batches.ResultsLua, batches.SettleLua),
	Release:     rdb.LoadStep(luaFiles, "release", rdb.TimeLua, batches.StatesLua, batches.EntryLua, batches.SettleLua, groupsLua),
	Restore:     rdb.LoadStep(luaFiles, "restore", rdb.TimeLua, batches.StatesLua, batches.EntryLua, batches.SettleLua, groupsLua),
	Disown:      rdb.LoadStep(luaFiles, "disown", batches.EntryLua),
	SaveGroup:   rdb.LoadStep(luaFiles, "save_group", rdb.TimeLua, batches.EntryLua, groupsLua),
	FinishGroup: rdb.LoadStep(luaFiles, "finish_group", rdb.TimeLua, batches.StatesLua, batches.EntryLua, batches.SettleLua),
}
