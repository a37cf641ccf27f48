package consumer

import (
	"embed"

	"github.com/batchd/batchd/queue/rdb"
)

//go:embed lua/*.lua
var luaFiles embed.FS

// Steps are the Lua steps of this package.
var Steps = struct {
	Forward, Reap, Renew *rdb.Step
}{
	Forward: rdb.LoadStep(luaFiles, "forward", rdb.TimeLua),
	Reap:    rdb.LoadStep(luaFiles, "reap", rdb.TimeLua),
	Renew:   rdb.LoadStep(luaFiles, "renew", rdb.TimeLua),
}
