package queue

import (
	"embed"
	"fmt"

	"github.com/redis/go-redis/v9"
)

//go:embed lua/*.lua
var luaFiles embed.FS

// scripts are the steps of the ledger.
type scripts struct {
	claim, stage, commit, progress, begin, finish, release, stop, erase, delivered, redeliver *redis.Script
}

func loadScripts() (*scripts, error) {
	lib, err := luaFiles.ReadFile("lua/lib.lua")
	if err != nil {
		return nil, fmt.Errorf("read lua library: %w", err)
	}
	s := &scripts{}
	for name, into := range map[string]**redis.Script{
		"claim": &s.claim, "stage": &s.stage, "commit": &s.commit, "progress": &s.progress,
		"begin": &s.begin, "finish": &s.finish, "release": &s.release, "stop": &s.stop,
		"erase": &s.erase, "delivered": &s.delivered, "redeliver": &s.redeliver,
	} {
		text, err := luaFiles.ReadFile("lua/" + name + ".lua")
		if err != nil {
			return nil, fmt.Errorf("read lua step: %w", err)
		}
		*into = redis.NewScript(string(lib) + string(text))
	}
	return s, nil
}
