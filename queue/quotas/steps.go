package quotas

import (
	"embed"

	"github.com/batchd/batchd/queue/rdb"
)

//go:embed lua/*.lua
var luaFiles embed.FS

//go:embed lua/account.lua
var accountLua string

// Steps are the Lua steps of this package.
var Steps = struct {
	Charge, Release, Due, Correct, Spare, Lower, Enlist, Claim, Unlist, SetRoom, Announce *rdb.Step
}{
	Charge:   rdb.LoadStep(luaFiles, "charge", rdb.TimeLua, accountLua),
	Release:  rdb.LoadStep(luaFiles, "release", rdb.TimeLua, accountLua),
	Due:      rdb.LoadStep(luaFiles, "due", rdb.TimeLua),
	Correct:  rdb.LoadStep(luaFiles, "correct", rdb.TimeLua, accountLua),
	Spare:    rdb.LoadStep(luaFiles, "spare", rdb.TimeLua, accountLua),
	Lower:    rdb.LoadStep(luaFiles, "lower"),
	Enlist:   rdb.LoadStep(luaFiles, "enlist", rdb.TimeLua),
	Claim:    rdb.LoadStep(luaFiles, "claim", rdb.TimeLua),
	Unlist:   rdb.LoadStep(luaFiles, "unlist"),
	SetRoom:  rdb.LoadStep(luaFiles, "set_room", rdb.TimeLua),
	Announce: rdb.LoadStep(luaFiles, "announce"),
}
