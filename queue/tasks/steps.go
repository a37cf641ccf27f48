package tasks

import (
	"embed"

	"github.com/batchd/batchd/queue/rdb"
)

//go:embed lua/*.lua
var luaFiles embed.FS

//go:embed lua/fair.lua
var fairLua string

// Steps are the Lua steps of this package. Other packages use them to load them ahead of need, and tests to
// recognize their commands.
var Steps = struct {
	Poll, Enqueue, Offer, Retract, Requeue, Forward, Reap, Renew, InHand *rdb.Step
}{
	Poll:    rdb.LoadStep(luaFiles, "poll", rdb.TimeLua, fairLua),
	Enqueue: rdb.LoadStep(luaFiles, "enqueue"),
	Offer:   rdb.LoadStep(luaFiles, "offer", rdb.TimeLua, fairLua),
	Retract: rdb.LoadStep(luaFiles, "retract", rdb.TimeLua, fairLua),
	Requeue: rdb.LoadStep(luaFiles, "requeue"),
	Forward: rdb.LoadStep(luaFiles, "forward", rdb.TimeLua),
	Reap:    rdb.LoadStep(luaFiles, "reap", rdb.TimeLua),
	Renew:   rdb.LoadStep(luaFiles, "renew", rdb.TimeLua),
	InHand:  rdb.LoadStep(luaFiles, "in_hand"),
}
