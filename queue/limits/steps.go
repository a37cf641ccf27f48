package limits

import (
	"embed"

	"github.com/batchd/batchd/queue/rdb"
)

//go:embed lua/*.lua
var luaFiles embed.FS

// Steps are the Lua steps of this package.
var Steps = struct {
	ReserveQuota, InFlight, Refund *rdb.Step
}{
	ReserveQuota: rdb.LoadStep(luaFiles, "reserve_quota", rdb.TimeLua),
	InFlight:     rdb.LoadStep(luaFiles, "in_flight"),
	Refund:       rdb.LoadStep(luaFiles, "refund"),
}
