package rdb

import (
	"context"
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

// AnswerOf returns the answer to a step that a pipeline sent by its digest. If the server does not
// know the digest, AnswerOf sends the step once more, by its text.
func (db *DB) AnswerOf(ctx context.Context, step *Step, cmd *redis.Cmd) *redis.Cmd {
	if err := cmd.Err(); err == nil || !redis.HasErrorPrefix(err, "NOSCRIPT") {
		return cmd
	}
	args := cmd.Args() // EVALSHA, digest, number of keys, those, arguments
	n, _ := args[2].(int)
	keys := make([]string, n)
	for i := range keys {
		keys[i] = Text(args[3+i])
	}
	return step.Eval(ctx, db.Client, keys, args[3+n:]...)
}

// Run runs one step in an exchange of its own and returns its answer as strings. It sends the text of
// the step if the server does not know it. While Redis is away it returns a [batch.UnavailableError]:
// the step may then have run or not.
func (db *DB) Run(ctx context.Context, step *Step, keys []string, args ...any) ([]string, error) {
	ctx, cancel := db.WithTimeout(ctx)
	defer cancel()
	answer, err := step.Run(ctx, db.Client, keys, args...).Result()
	if err != nil {
		return nil, MapError(ctx, err)
	}
	if parts, several := answer.([]any); several {
		return Texts(parts), nil
	}
	return []string{Text(answer)}, nil
}
