package throttle

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	lua "github.com/yuin/gopher-lua"

	"github.com/batchd/batchd/internal/batch"
)

// luaGate is a Redis of a virtual clock that knows lua/reserve.lua.
type luaGate struct {
	state  *lua.LState
	step   *lua.LFunction
	now    func() int64 // microseconds
	hashes map[string]map[string]string
	sets   map[string]map[string]float64
	texts  map[string]string
	given  int // send times
}

func newLuaGate(t *testing.T, now func() int64) *luaGate {
	t.Helper()
	g := &luaGate{
		state: lua.NewState(), now: now,
		hashes: map[string]map[string]string{}, sets: map[string]map[string]float64{}, texts: map[string]string{},
	}
	t.Cleanup(g.state.Close)
	redis := g.state.NewTable()
	g.state.SetField(redis, "call", g.state.NewFunction(g.call))
	g.state.SetGlobal("redis", redis)
	var text []byte
	for _, name := range []string{"../rdb/lua/time.lua", "lua/reserve.lua"} {
		part, err := os.ReadFile(name)
		require.NoError(t, err)
		text = append(text, part...)
	}
	var err error
	g.step, err = g.state.LoadString(string(text))
	require.NoError(t, err)
	return g
}

// reserve runs the step, for as many tasks more as a poll took.
func (g *luaGate) reserve(target string, rate batch.Rate, burst int, r *reservation, taken int) (*reserved, error) {
	keys, argv := g.state.NewTable(), g.state.NewTable()
	names, args := r.call(target, rate, burst)
	if r.afterPoll && taken > 0 {
		g.texts[r.takenKey(target)] = strconv.Itoa(taken)
	}
	for _, k := range names {
		keys.Append(lua.LString(k))
	}
	for _, a := range args {
		argv.Append(lua.LString(fmt.Sprint(a)))
	}
	g.state.SetGlobal("KEYS", keys)
	g.state.SetGlobal("ARGV", argv)
	if err := g.state.CallByParam(lua.P{Fn: g.step, NRet: 1, Protect: true}); err != nil {
		return nil, err
	}
	answer, _ := g.state.Get(-1).(*lua.LTable)
	g.state.Pop(1)
	given, err := parseReserved([]string{answer.RawGetInt(1).String(), answer.RawGetInt(2).String()})
	if err == nil {
		for _, run := range given.runs {
			g.given += run.N
		}
	}
	return given, err
}

// call is redis.call for what the step uses.
func (g *luaGate) call(s *lua.LState) int {
	args := make([]string, s.GetTop())
	for i := range args {
		args[i] = s.Get(i + 1).String()
	}
	table := func(values ...lua.LValue) int {
		out := s.NewTable()
		for i, v := range values {
			out.RawSetInt(i+1, v)
		}
		s.Push(out)
		return 1
	}
	text := func(v string, ok bool) lua.LValue {
		if !ok {
			return lua.LFalse
		}
		return lua.LString(v)
	}
	switch args[0] {
	case "TIME":
		now := g.now()
		return table(lua.LString(strconv.FormatInt(now/1e6, 10)), lua.LString(strconv.FormatInt(now%1e6, 10)))
	case "GET":
		v, ok := g.texts[args[1]]
		s.Push(text(v, ok))
		return 1
	case "SET":
		g.texts[args[1]] = args[2]
	case "HMGET":
		var values []lua.LValue
		for _, field := range args[2:] {
			v, ok := g.hashes[args[1]][field]
			values = append(values, text(v, ok))
		}
		return table(values...)
	case "HSET":
		if g.hashes[args[1]] == nil {
			g.hashes[args[1]] = map[string]string{}
		}
		for i := 2; i < len(args); i += 2 {
			g.hashes[args[1]][args[i]] = args[i+1]
		}
	case "ZADD":
		score, err := strconv.ParseFloat(args[2], 64)
		if err != nil {
			s.RaiseError("%v", err)
		}
		if g.sets[args[1]] == nil {
			g.sets[args[1]] = map[string]float64{}
		}
		g.sets[args[1]][args[3]] = score
	case "ZREM":
		delete(g.sets[args[1]], args[2])
	case "ZRANGE":
		set := g.sets[args[1]]
		var members []string
		for m := range set {
			members = append(members, m)
		}
		slices.SortFunc(members, func(a, b string) int { return int(set[a] - set[b]) })
		var values []lua.LValue
		for _, m := range members {
			values = append(values, lua.LString(m))
		}
		return table(values...)
	case "DEL":
		delete(g.texts, args[1])
	case "PEXPIRE":
	default:
		s.RaiseError("unexpected command %q", args[0])
	}
	s.Push(lua.LNumber(1))
	return 1
}
