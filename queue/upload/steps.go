package upload

import (
	"embed"

	"github.com/batchd/batchd/queue/batches"
	"github.com/batchd/batchd/queue/rdb"
)

//go:embed lua/*.lua
var luaFiles embed.FS

//go:embed lua/list_entry.lua
var listEntryLua string

// Steps are the Lua steps of this package.
var Steps = struct {
	Claim, LookUp, Unclaim, Stage, Commit, List, Drop *rdb.Step
}{
	Claim:   rdb.LoadStep(luaFiles, "claim"),
	LookUp:  rdb.LoadStep(luaFiles, "look_up"),
	Unclaim: rdb.LoadStep(luaFiles, "unclaim"),
	Stage:   rdb.LoadStep(luaFiles, "stage"),
	Commit:  rdb.LoadStep(luaFiles, "commit", rdb.TimeLua, batches.GraceLua, listEntryLua),
	List:    rdb.LoadStep(luaFiles, "list", rdb.TimeLua, listEntryLua),
	Drop:    rdb.LoadStep(luaFiles, "drop"),
}
