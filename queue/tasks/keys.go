package tasks

// AsynqPrefix returns the prefix of the keys of an asynq queue.
func AsynqPrefix(queue string) string { return "asynq:{" + queue + "}:" }

// FairPrefix returns the prefix of the keys of the fair queue beside an asynq queue. They are in the same slot
// of a cluster as the keys of the asynq queue.
func FairPrefix(queue string) string { return "batchd:fair:{" + queue + "}:" }

// DueKey returns the key of a zset with the tasks of a queue that wait for another attempt, by the time in ms
// at which each is due. It is in the slot of the queue.
func DueKey(queue string) string { return "batchd:due:{" + queue + "}" }

// InHandKey returns the key of a set with the tasks that workers reported to hold when package repair asked
// for them with a token.
func InHandKey(token string) string { return "batchd:inhand:" + token }
