package tasks

// MaxRetry is the number of retries in messages.
const MaxRetry = maxRetry
