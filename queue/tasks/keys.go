package tasks

import ()

// DueKey has the tasks of a queue that wait for another attempt, by the time at which they are
// due in ms. The braces keep it on the node of the queue.
func DueKey(queue string) string { return "batchd:due:{" + queue + "}" }

// InHandKey has the tasks that workers said to have in hand when they were asked with a token.
func InHandKey(token string) string { return "batchd:inhand:" + token }

// FairPrefix is what the keys of the fair queue of an asynq queue begin with. They are in the slot
// of asynq's own.
func FairPrefix(queue string) string { return "batchd:fair:{" + queue + "}:" }

// AsynqPrefix is what the keys of an asynq queue begin with.
func AsynqPrefix(queue string) string { return "asynq:{" + queue + "}:" }
