package rdb

import (
	"context"
	"errors"

	"github.com/redis/go-redis/v9"
)

// KeptReplies is a hook of a client. With it, every command of a pipeline ends with its own reply, or
// with an error of its own.
//
// Without it go-redis marks commands that were answered as failed when the connection
// breaks behind their replies, or when time runs out while it repeats others; and it sends
// a whole pipeline again, to one server or to one node of a cluster, although some of its
// commands were executed: their first replies are lost, and with them the ids of the tasks that
// those commands took.
type KeptReplies struct{}

// DialHook implements [redis.Hook].
func (KeptReplies) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessHook implements [redis.Hook].
func (KeptReplies) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

// ProcessPipelineHook implements [redis.Hook].
func (KeptReplies) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		kept := make([]keptReply, len(cmds))
		sent := make([]redis.Cmder, len(cmds))
		for i, cmd := range cmds {
			kept[i].Cmder = cmd
			sent[i] = &kept[i]
		}
		return next(ctx, sent)
	}
}

// keptReply is a command of a pipeline that keeps its reply.
type keptReply struct {
	redis.Cmder
	answered bool
}

// SetErr sets the error of the command, unless the command was answered and the error belongs to
// another command.
func (k *keptReply) SetErr(err error) {
	var refused redis.Error
	if err == nil || errors.As(err, &refused) {
		k.answered = true
	} else if k.answered {
		return
	}
	k.Cmder.SetErr(err)
}

// NoRetry reports whether the command, and with it its pipeline, must not be sent again
// once it may have been executed. Commands that no server executed, because no connection
// could be opened or because a node of a cluster does not have their keys, still are.
func (k *keptReply) NoRetry() bool {
	switch k.Name() {
	case "exists", "get", "getrange", "hget", "hgetall", "hmget", "lrange":
		return k.Cmder.NoRetry()
	default:
		return true
	}
}
