package rdb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// reply is an error reply of Redis.
type reply string

func (r reply) Error() string { return string(r) }
func (reply) RedisError()     {}

// Replies that no list names mean that Redis cannot serve, and only those that a wrong
// command brings on are faults of ours.
func TestOnlyRepliesToWrongCommandsAreFaultsOfOurs(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"ERR max number of clients reached",
		"NOPERM this user has no permissions to run the 'evalsha' command",
		"NOAUTH Authentication required.",
		"WRONGPASS invalid username-password pair or user is disabled.",
		"TOO_MANY_REQUESTS slow down",
		"ERR max daily request limit exceeded. Limit: 10000, Usage: 10001.",
		"ERR max request size exceeded",
		"ERR Error running script (call to f_0123abcd): @user_script:12: -OOM command not allowed when used memory > 'maxmemory'.",
		"ERR Error running script (call to f_0123abcd): @user_script: 12: -MISCONF Errors writing to the AOF file",
		"ERR Error running script (call to f_0123abcd): @user_script:3: @user_script: 3: -READONLY You can't write against a read only replica.",
		"OOM command not allowed when used memory > 'maxmemory'. script: 0123abcd, on @user_script:12.",
		"MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
		"READONLY You can't write against a read only replica.",
		"LOADING Redis is loading the dataset in memory",
		"BUSY Redis is busy running a script.",
		"UNKILLABLE Sorry the script already executed write commands",
		"NOREPLICAS Not enough good replicas to write.",
		"CLUSTERDOWN The cluster is down",
		"MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
		"TRYAGAIN Multiple keys request during rehashing of slot",
		"MOVED 3999 127.0.0.1:6381",
		"ASK 3999 127.0.0.1:6381",
		"EXECABORT Transaction discarded because of previous errors.",
		"UNBLOCKED client unblocked via CLIENT UNBLOCK",
		"NOSCRIPT No matching script. Please use EVAL.",
		"ERR unknown reason",
		"ERR the syntax error is none of ours",
		"quota exceeded: wrong number of arguments is not what this says",
		"ERR",
		"",
	} {
		require.True(t, unavailable(reply(text)), text)
		require.True(t, unavailable(fmt.Errorf("begin: %w", reply(text))), text)
		for _, words := range []string{"asynq: UNKNOWN: redis eval error: ", "asynq: INTERNAL_ERROR: redis command error: SADD failed: "} {
			require.True(t, unavailable(errors.New(words+text)), text)
		}
	}
	for _, text := range []string{
		"WRONGTYPE Operation against a key holding the wrong kind of value",
		"WRONGTYPE Operation against a key holding the wrong kind of value script: 0123abcd, on @user_script:1.",
		"ERR wrong number of arguments for 'hset' command",
		"ERR Wrong number of args calling Redis command from script script: 0123abcd, on @user_script:1.",
		"ERR unknown command 'FOO', with args beginning with: ",
		"ERR unknown command `FOO`, with args beginning with: ",
		"ERR unknown subcommand 'FOO'. Try CLUSTER HELP.",
		"ERR Unknown Redis command called from script script: 0123abcd, on @user_script:1.",
		"ERR syntax error",
		"CROSSSLOT Keys in request don't hash to the same slot",
		"ERR Error compiling script (new function): user_script:1: '=' expected near 'x'",
		"ERR user_script:12: attempt to index a nil value script: 0123abcd, on @user_script:12.",
		"ERR user_script:3: Script attempted to access nonexistent global variable 'x' script: 0123abcd, on @user_script:3.",
		"ERR Error running script (call to f_0123abcd): @user_script:12: user_script:12: attempt to index a nil value",
		"ERR Error running script (call to f_0123abcd): @user_script:12: WRONGTYPE Operation against a key holding the wrong kind of value",
		"ERR Error running script (call to f_0123abcd): @user_script: 12: Wrong number of args calling Redis command From Lua script",
	} {
		require.False(t, unavailable(reply(text)), text)
		require.False(t, unavailable(errors.New("asynq: UNKNOWN: redis eval error: "+text)), text)
	}
}

func TestAWrongTypeIsToldFromOtherReplies(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"WRONGTYPE Operation against a key holding the wrong kind of value":                                                                 true,
		"WRONGTYPE Operation against a key holding the wrong kind of value script: 0123abcd, on @user_script:1.":                            true,
		"ERR Error running script (call to f_0123abcd): @user_script:12: WRONGTYPE Operation against a key holding the wrong kind of value": true,
		"ERR syntax error": false, "LOADING Redis is loading the dataset in memory": false, "": false,
	} {
		require.Equal(t, want, IsWrongType(fmt.Errorf("read: %w", reply(text))), text)
	}
	require.False(t, IsWrongType(io.EOF))
	require.False(t, IsWrongType(nil))
}

func TestOtherErrorsAreToldApartToo(t *testing.T) {
	t.Parallel()
	for _, err := range []error{
		io.EOF, net.ErrClosed, redis.ErrPoolTimeout, context.DeadlineExceeded, ErrSlow, ErrAnswer,
		errors.New("asynq: UNKNOWN: redis eval error: dial tcp 127.0.0.1:1: connect: connection refused"),
		errors.New("redis: all sentinels specified in configuration are unreachable"),
		errors.New("redis: cluster has no nodes"),
		errors.New(`redis: can't parse "HTTP/1.1 502 Bad Gateway"`),
	} {
		require.True(t, unavailable(err), "%v", err)
	}
	for _, err := range []error{redis.Nil, redis.ErrClosed, errors.New("asynq: task not found")} {
		require.False(t, unavailable(err), "%v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(io.ErrNoProgress)
	require.ErrorIs(t, MapError(ctx, reply("OOM no room")), io.ErrNoProgress, "the caller's own end stays what it is")
}
