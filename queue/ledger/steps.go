package ledger

import (
	"embed"
	"fmt"

	"github.com/batchd/batchd/queue/batches"
	"github.com/batchd/batchd/queue/quotas"
	"github.com/batchd/batchd/queue/rdb"
)

//go:embed lua/*.lua
var luaFiles embed.FS

//go:embed lua/groups.lua
var groupsLua string

//go:embed lua/room.lua
var roomFunctions string

// roomLua are the functions of lua/room.lua, with the size of a small result.
var roomLua = fmt.Sprintf("local SMALL = %d\n%s", quotas.SmallResult, roomFunctions)

// Steps are the Lua steps of this package. The header of each file in lua has its keys, arguments and
// reply.
var Steps = struct {
	Beat, Begin, Finish, Release, Restore, Disown, SaveGroup, FinishGroup *rdb.Step
}{
	Beat:        rdb.LoadStep(luaFiles, "beat", rdb.TimeLua),
	Begin:       rdb.LoadStep(luaFiles, "begin", rdb.TimeLua, batches.StatesLua, batches.EntryLua, batches.SettleLua, groupsLua),
	Finish:      rdb.LoadStep(luaFiles, "finish", rdb.TimeLua, batches.StatesLua, batches.ResultsLua, batches.SettleLua, roomLua),
	Release:     rdb.LoadStep(luaFiles, "release", rdb.TimeLua, batches.StatesLua, batches.EntryLua, batches.SettleLua, groupsLua),
	Restore:     rdb.LoadStep(luaFiles, "restore", rdb.TimeLua, batches.StatesLua, batches.EntryLua, batches.SettleLua, groupsLua),
	Disown:      rdb.LoadStep(luaFiles, "disown", batches.EntryLua),
	SaveGroup:   rdb.LoadStep(luaFiles, "save_group", rdb.TimeLua, batches.EntryLua, groupsLua, roomLua),
	FinishGroup: rdb.LoadStep(luaFiles, "finish_group", rdb.TimeLua, batches.StatesLua, batches.EntryLua, batches.SettleLua, roomLua),
}
