package rdb

import (
	"context"
	"errors"
	"io"
	"net"
	"regexp"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/batch"
)

// retryAfter is the pause that callers are asked to make while Redis is unavailable.
const retryAfter = 2 * time.Second

// ErrSlow is the cause of a context that ended because Redis took too long. For [MapError] it means that
// Redis is unavailable.
var ErrSlow = errors.New("redis did not answer in time")

// MapError turns an error of go-redis into one of the domain: a [batch.UnavailableError] if Redis
// cannot serve. If the context of the caller has ended, it returns the cause of that.
func MapError(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	cause := context.Cause(ctx)
	if ctx.Err() != nil && !errors.Is(cause, ErrSlow) {
		return cause
	}
	if unavailable(err) {
		if late := (*slow)(nil); errors.As(cause, &late) && errors.Is(err, context.DeadlineExceeded) {
			err = late.explain(err)
		}
		return &batch.UnavailableError{RetryAfter: retryAfter, Err: err}
	}
	return err
}

// IsUnavailable reports whether [MapError] found that Redis cannot serve.
func IsUnavailable(err error) bool {
	away := (*batch.UnavailableError)(nil)
	return err != nil && errors.As(err, &away)
}

// unavailable reports whether an error means that Redis is unavailable. No list of
// the replies with that meaning is complete: Redis, its modules, access rules,
// proxies and managed services each have their own. So every error reply has it,
// except for the replies that report a faulty command.
func unavailable(err error) bool {
	var netErr net.Error
	switch {
	case errors.Is(err, redis.Nil), errors.Is(err, redis.ErrClosed):
		return false
	case errors.Is(err, ErrAnswer): // not what the step answers, so it is not known whether it ran
		return true
	case errors.Is(err, ErrSlow), errors.Is(err, context.DeadlineExceeded), errors.Is(err, io.EOF),
		errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed),
		errors.Is(err, redis.ErrPoolTimeout), errors.Is(err, redis.ErrPoolExhausted), errors.As(err, &netErr):
		return true
	}
	if reply, ok := errors.AsType[redis.Error](err); ok {
		return !ourFault(reply.Error())
	}
	return unavailableText(err.Error())
}

// ourFaults are the beginnings of replies that report a faulty command of batchd, in
// lower case and without the prefix ERR. Repeating such a command would not help.
var ourFaults = []string{
	"wrongtype ", "crossslot ", "syntax error",
	"wrong number of arg", "unknown command", "unknown subcommand", "unknown redis command",
	// Faults of our own Lua.
	"error compiling script", "script attempted to access", "attempt to ", "bad argument",
}

// inScript is what Redis puts in front of an error that a script has run into. Before
// version 7 that is all of this, since then only the last part.
var inScript = regexp.MustCompile(`^(?i:err )?(?i:error running script \([^)]*\): ?)?(?:@?\w+: ?\d+: ?)*-?`)

// ourFault reports whether an error reply means that a command of ours is wrong.
func ourFault(reply string) bool {
	reply = reply[len(inScript.FindString(reply)):]
	if len(reply) >= 4 && strings.EqualFold(reply[:4], "ERR ") {
		reply = reply[4:]
	}
	reply = strings.ToLower(reply)
	for _, fault := range ourFaults {
		if strings.HasPrefix(reply, fault) {
			return true
		}
	}
	return false
}

// IsWrongType reports whether a reply says that a key has a value of another type than the command expects.
func IsWrongType(err error) bool {
	reply, ok := errors.AsType[redis.Error](err)
	if !ok {
		return false
	}
	text := reply.Error()
	return strings.HasPrefix(strings.ToLower(text[len(inScript.FindString(text)):]), "wrongtype ")
}

// clientFaults are the texts of errors of go-redis without a type of their own: no
// server can be reached, or the server that answered is no Redis.
var clientFaults = []string{
	"dial tcp", "i/o timeout", "connection refused", "connection reset", "connection pool: failed to dial",
	"redis: all sentinels specified in configuration are unreachable", "redis: cluster has no nodes",
	"redis: connection not available", "redis: timed out trying to mark connection as unusable", "redis: invalid reply",
	"redis: invalid line", "redis: can't parse",
}

// repliedTo are the texts that asynq puts in front of a reply, of which it keeps only the text.
var repliedTo = regexp.MustCompile(`redis (?:eval error|command error: \w+ failed): `)

// unavailableText is unavailable for errors that were reduced to their texts.
func unavailableText(text string) bool {
	for _, words := range clientFaults {
		if strings.Contains(text, words) {
			return true
		}
	}
	at := repliedTo.FindStringIndex(text)
	if at == nil || strings.HasSuffix(text, redis.Nil.Error()) || strings.HasSuffix(text, redis.ErrClosed.Error()) {
		return false
	}
	return !ourFault(text[at[1]:])
}
