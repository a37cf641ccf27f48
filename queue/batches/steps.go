package batches

import (
	"embed"

	"github.com/batchd/batchd/queue/rdb"
)

//go:embed lua/*.lua
var luaFiles embed.FS

// Libraries of Lua functions for the steps on batches, those of other packages included. A step loads
// those that it calls.
var (
	// StatesLua changes the states of actions and their counts.
	//
	//go:embed lua/states.lua
	StatesLua string
	// EntryLua reads and writes ledger entries, as [ParseEntry] does.
	//
	//go:embed lua/entry.lua
	EntryLua string
	// ResultsLua reads states and results.
	//
	//go:embed lua/results.lua
	ResultsLua string
	// SettleLua ends a batch of which no action is pending. It needs [rdb.TimeLua].
	//
	//go:embed lua/settle.lua
	SettleLua string
	// GraceLua has GRACE, in milliseconds.
	//
	//go:embed lua/grace.lua
	GraceLua string
)

// Steps are the Lua steps of this package.
var Steps = struct {
	Stop, Erase, Due, Enqueued, Delivered, Redeliver, Deliveries, Snapshot, Read, Owner *rdb.Step
}{
	Stop:       rdb.LoadStep(luaFiles, "stop", rdb.TimeLua, StatesLua, SettleLua),
	Erase:      rdb.LoadStep(luaFiles, "erase"),
	Due:        rdb.LoadStep(luaFiles, "due", rdb.TimeLua),
	Enqueued:   rdb.LoadStep(luaFiles, "enqueued"),
	Delivered:  rdb.LoadStep(luaFiles, "delivered", rdb.TimeLua),
	Redeliver:  rdb.LoadStep(luaFiles, "redeliver"),
	Deliveries: rdb.LoadStep(luaFiles, "deliveries"),
	Snapshot:   rdb.LoadStep(luaFiles, "snapshot", ResultsLua),
	Read:       rdb.LoadStep(luaFiles, "read"),
	Owner:      rdb.LoadStep(luaFiles, "owner"),
}
