package queue

import (
	"embed"
	"fmt"
	"slices"

	"github.com/batchd/batchd/queue/rdb"
)

//go:embed lua/*.lua
var luaFiles embed.FS

// scripts are the steps of the ledger.
type scripts struct {
	forward, reap, renew, enqueue, offer, retract, reserve, hold, looks, beat, bury, requeue, claim, elect, alert, resign, admit, flying, handout, readmit, reopen, unlist, stage, commit, list, progress, begin, finish, release, restore, disown, running, note, conclude, stop, erase, due, enqueued, delivered, redeliver, retry, look, drop *rdb.Step
}

func loadScripts() (*scripts, error) {
	lib, err := luaFiles.ReadFile("lua/lib.lua")
	if err != nil {
		return nil, fmt.Errorf("read lua library: %w", err)
	}
	fair, err := luaFiles.ReadFile("lua/fair.lua")
	if err != nil {
		return nil, fmt.Errorf("read lua library: %w", err)
	}
	s := &scripts{}
	for name, into := range map[string]**rdb.Step{
		"forward": &s.forward, "reap": &s.reap, "renew": &s.renew, "enqueue": &s.enqueue, "offer": &s.offer, "retract": &s.retract, "reserve": &s.reserve, "hold": &s.hold, "looks": &s.looks, "beat": &s.beat, "bury": &s.bury, "requeue": &s.requeue, "claim": &s.claim, "elect": &s.elect, "alert": &s.alert, "resign": &s.resign, "admit": &s.admit, "flying": &s.flying, "handout": &s.handout, "reopen": &s.reopen, "unlist": &s.unlist, "readmit": &s.readmit, "stage": &s.stage, "commit": &s.commit, "list": &s.list, "progress": &s.progress,
		"begin": &s.begin, "finish": &s.finish, "release": &s.release, "restore": &s.restore, "disown": &s.disown, "running": &s.running, "stop": &s.stop,
		"note": &s.note, "conclude": &s.conclude, "erase": &s.erase, "due": &s.due, "enqueued": &s.enqueued, "delivered": &s.delivered, "redeliver": &s.redeliver, "retry": &s.retry, "look": &s.look, "drop": &s.drop,
	} {
		text, err := luaFiles.ReadFile("lua/" + name + ".lua")
		if err != nil {
			return nil, fmt.Errorf("read lua step: %w", err)
		}
		step := string(lib) + string(text)
		if slices.Contains([]string{"turn", "offer", "retract"}, name) {
			step = string(lib) + string(fair) + string(text)
		}
		*into = rdb.NewStep(step)
	}
	return s, nil
}

// pollStep is lua/turn.lua.
var pollStep = func() *rdb.Step {
	text := ""
	for _, name := range []string{"lib", "fair", "turn"} {
		part, _ := luaFiles.ReadFile("lua/" + name + ".lua")
		text += string(part)
	}
	return rdb.NewStep(text)
}()
