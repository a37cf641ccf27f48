// Package queue keeps batches in Redis and hands their actions to asynq.
//
// It has two parts. The ledger ([Store]) is the truth: what a batch is, what
// state each of its actions is in, and what came of it. Every change of state is
// one atomic Lua step (lua/), decided by the Redis server's clock, and bears
// repetition, so that a step whose answer was lost can be sent again. asynq is
// the way to the workers: one task an action, whose payload is only the batch id
// and the index. [Server] runs those of actions itself, and keeps them in asynq's keys as asynq
// would, for its tools. A plain asynq server delivers webhooks, from a queue of their own. A
// task that is lost, doubled or late changes nothing that the ledger does not allow.
//
// A batch's keys share a hash tag, so each step runs on one shard of a cluster:
//
//	batchd:{<id>}:m   hash     the batch: owner, status, counts, deadline
//	batchd:{<id>}:s   string   one byte an action: its state
//	batchd:{<id>}:a   hash     index → sealed action
//	batchd:{<id>}:l   hash     index → who began it, when, how often
//	batchd:{<id>}:r   hash     index → sealed result, as it will be served
//	batchd:{<id>}:g   hash     index of a group's first action → its members and sealed record;
//	                           "o" and index → what the last attempt at an action came to that is to have another
//	batchd:{<id>}:w   list     the attempts at delivering the webhook
//	batchd:{<id>}:u   string   stands while an upload with an idempotency key or under a limit is open
//	batchd:{<id>}:u:… string   stands while a retry of the batch is under way
//
//	batchd:owner:{<owner>}            zset    the owner's batches by the time at which they were created, in µs
//	batchd:key:{<hash>}               string  idempotency key → batch id
//	batchd:limit:{<owner>}:<scope>:…  hashes  what an owner was admitted: by slice of time, and by grant (see lua/admit.lua)
//	batchd:gate:{<target>}            hash    the next send time at a target's rate, and until when it is held
//	batchd:gate:{<target>}:returned   zset    send times that were reserved and not used
//	batchd:gate:{<target>}:<token>    string  the answer to a reservation, for whoever was not answered
//	batchd:gate:{<target>}:<token>:taken  string  the number of tasks that a poll took, for the reservation that follows it in the same exchange
//	batchd:due:{<queue>}              zset    actions that wait for another attempt, by the time at which they are due, in ms;
//	                                          asynq:{<queue>}:retry has them by the second
//	batchd:fair:{<queue>}:…           various the actions that wait for their tasks, by owner and batch (see lua/fair.lua)
//	batchd:open                       zset    batches that are not done, by when the sweeper looks at them next, in ms
//	batchd:throttled                  zset    batches that are handed out as limits allow
//	batchd:lost                       set     queues with tasks that were taken and that no worker holds
//	batchd:inhand:<question>          set     tasks that workers said to have in hand when the sweeper asked for them
//	{batchd:open}:again, likewise     zsets   entries of these two that were made again shortly before, by time
//	batchd:workers, batchd:sweeper    zset, string  the workers by their last beat, and the one that sweeps
//	batchd:recovery                   string  the worker that takes over the actions of dead workers, for 6 s
//	batchd:tripped, batchd:salt       set, string   targets whose circuit is open, and what owners' names are hashed with
//
// All keys of a batch carry a time to live from the start, as do those of
// idempotency keys, limits and gates.
package queue
