package rdb

import (
	"embed"
	"strings"

	"github.com/redis/go-redis/v9"
)

// TimeLua has now_us and now_ms, Redis's clock, and ms, which writes a time without an exponent.
//
//go:embed lua/time.lua
var TimeLua string

// Step is a Lua script that changes the records of a batch, or of a queue, as a whole. A pipeline sends
// it by its digest; see [DB.AnswerOf].
type Step struct {
	*redis.Script
	text string
}

// NewStep returns a step of libraries, which define local functions, and the text of the step itself.
func NewStep(texts ...string) *Step {
	text := strings.Join(texts, "\n")
	return &Step{redis.NewScript(text), text}
}

// LoadStep returns the step in lua/<name>.lua of a package's embedded files. It panics if the file is not
// there, which is a fault of the build.
func LoadStep(files embed.FS, name string, libraries ...string) *Step {
	text, err := files.ReadFile("lua/" + name + ".lua")
	if err != nil {
		panic(err)
	}
	return NewStep(append(libraries, string(text))...)
}
