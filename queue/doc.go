// Package queue opens a store of batches in Redis, and hands out its parts: [Store] implements batch.Store, and
// its fields implement the other interfaces of internal/batch. Everything else is in the packages around it.
//
// # Packages
//
// Each package may import those above it; internal/layout checks that.
//
//	seal       encrypts stored values, and binds each to its batch, kind and index
//	rdb        one Redis in any form: connections, exchanges, errors, steps (Lua), pub/sub, preflight
//	keys       the keys and channels that several packages use
//	owners     the salt of the installation, and the hashes that are keyed with it
//	apikeys    batchd's own keys, by which callers authenticate
//	sessions   people who signed in with a browser
//	tasks      asynq's data structures: queues and tasks, and the fair queues of actions without a task
//	limits     rates and numbers of actions in flight of owners
//	quotas     open batches, stored bytes and uploads of owners and addresses
//	index      the lists of the sweeper, and what a lost reply left in doubt
//	batches    what a batch is as a whole: reading, cancelling, deliveries of webhooks, waiters
//	lists      the lists of batches, of each owner and of all
//	batcher    calls of one step at the same time share an exchange
//	ledger     the state of each action: begin, release, finish, groups; repeating what Redis forgot
//	fanout     from a committed batch to waiting actions; throttled batches; retries
//	throttle   rates and holds of targets
//	upload     uploads: staging, idempotency keys, commit
//	reseal     seals what is stored with the first key of the ring
//	repair     the sweeper, and recovery of the actions of dead workers
//	queue      this package
//	queuetest  what tests share
//	webhooks   an asynq server that delivers webhooks
//	consumer   takes the tasks of actions and runs them
//
// # Two records
//
// The ledger is the truth: which actions a batch has, which state each is in, and its result. Every change of a
// state is one atomic Lua step, which may be repeated if its answer is lost, and goes by the clock of the Redis
// server. The asynq queues bring actions to workers: one task for each action that is about to run, whose
// payload is the batch id and the index. Package consumer runs these tasks itself and keeps asynq's keys as asynq
// would, so that asynq's tools work. Package webhooks delivers webhooks with a plain asynq server. A task may be
// lost, come twice or come late: the ledger alone decides whether its action runs and which result counts.
//
// # Keys of a batch
//
// They share a hash tag, so that each step runs on one node of a cluster. Package upload writes all of them at the
// commit; the right column has the packages that change them later.
//
//	batchd:{<id>}:m   hash     owner, status, counts, deadline, room for results, sealed head   batches, ledger, quotas, fanout
//	batchd:{<id>}:s   string   the state of each action, one byte for each                      batches, ledger, fanout
//	batchd:{<id>}:a   hash     index → sealed action                                            batches
//	batchd:{<id>}:l   hash     index → ledger entry: worker, token, attempts, times             ledger, fanout
//	batchd:{<id>}:r   hash     index → sealed result, as the API serves it                      ledger, fanout
//	batchd:{<id>}:g   hash     index of a group's first action → its members and sealed record; ledger, fanout
//	                           "o" and index → result of the last attempt, if another follows
//	batchd:{<id>}:w   list     attempts at the delivery of the webhook                          batches
//	batchd:{<id>}:u   string   exists while an upload with an idempotency key or under a limit is open
//	batchd:{<id>}:u:<token>    string   exists while a retry of the batch is under way          fanout
//
// # Other keys
//
//	asynq:queues, asynq:{<queue>}:…     various  asynq's own                                    tasks, asynq
//	batchd:fair:{<queue>}:…             various  actions that wait, by owner and batch (tasks/lua/fair.lua)   tasks
//	batchd:due:{<queue>}                zset     tasks that wait for another attempt, by ms; asynq:{<queue>}:retry
//	                                             has them by the second                         tasks
//	batchd:owner:{<owner>}              zset     the owner's batches by time of creation in µs  upload, batches, lists
//	batchd:batches                      zset     all batches, "<id> <owner>", by time of creation in µs, for admins   upload, batches, lists
//	batchd:key:{<hash>}                 string   keyed hash of an owner's idempotency key → batch id   upload
//	batchd:apikeys                      hash     version, and "k:" and name → sealed record of a key of batchd's own   apikeys
//	batchd:sessions:{group}             hash     "v" and id → sealed session, "t" and id → when it was used; a group is the hash of an owner   sessions
//	batchd:salt                         string   sealed salt of the keyed hashes: owners' names, idempotency keys, fingerprints   owners
//	batchd:limit:{<owner>}:<scope>:…    hashes   admitted actions by slice of time, and by grant (limits/lua/reserve_quota.lua)   limits
//	batchd:limit:…:refund:<token>       string   note of a refund, which is not repeated        limits
//	batchd:quota:{<kind>:<name>}:held   hash     batch id → what the batch counts for in this account (quotas/lua/account.lua)   quotas
//	batchd:quota:{<kind>:<name>}:look   zset     those batches by the ms at which each is looked at next   quotas
//	batchd:quota:{<kind>:<name>}:sum    hash     sums of the entries                            quotas
//	batchd:quota:{<kind>:<name>}:spare  zset     those batches by the bytes that each may give up   quotas
//	batchd:quota:{<kind>:<name>}:rate   string   uploaded bytes that count for the rate, and when   quotas
//	batchd:quotas                       zset     accounts by the ms at which the sweeper looks at each next   quotas
//	batchd:quotas:configured            hash     kind of account → configured quota of stored bytes   quotas
//	batchd:throttled                    zset     batches that wait for a limit                  upload, fanout, batches
//	batchd:gate:{<target>}              hash     next send time at the rate, end of the hold    throttle
//	batchd:gate:{<target>}:returned     zset     reserved send times that were not used         throttle
//	batchd:gate:{<target>}:<token>      string   answer to a reservation, to repeat it          throttle
//	batchd:gate:{<target>}:<token>:taken string  number of tasks that a poll took, for the reservation in the same exchange   tasks
//	batchd:tripped                      set      targets whose circuit is open                  throttle
//	batchd:open                         zset     open batches by the time in ms of the sweeper's next look    upload, batches, repair
//	{batchd:open}:again, {batchd:throttled}:again   zsets   batches listed again, and when: an older look does not remove them    batches, fanout
//	{batchd:open}:alert                 string   exists while every round looks at all open ones       batches
//	batchd:lost                         set      notes of queues with tasks that no worker holds      tasks
//	batchd:inhand:<token>               set      tasks that workers reported to hold            consumer
//	batchd:workers                      zset     workers by their last beat in ms               ledger, repair
//	batchd:sweeper                      string   the worker that sweeps                         repair
//	batchd:recovery                     string   the worker that recovers dead workers' actions repair
//
// All keys of a batch have a time to live from the start, as have those of idempotency keys, limits and gates.
//
// # Channels
//
//	batchd:done     id of a batch that has ended           published by batches/lua/settle.lua
//	batchd:work     process and queue with new tasks       published by tasks
//	batchd:hold     µs and target of a hold                published by throttle
//	batchd:holders  question for actions in flight         published by repair, answered by consumer
//	batchd:tasks    question for tasks in hand             published by repair, answered by consumer
//
// # Locks
//
// docs/ARCHITECTURE.md has the order in which a goroutine may take locks. None is held during an exchange with
// Redis, except those that exist to let one exchange serve many callers.
//
// # Redis
//
// Redis 6.2 is the oldest version that has all commands in use; [Store.Preflight] checks the version, and that
// maxmemory-policy is noeviction.
package queue
