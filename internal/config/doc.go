// Package config is batchd's one file format: which settings there are, what
// they default to, and how a file, the environment and flags are read into one
// [Config]. It is the only reader of the environment.
//
// A setting has a dotted path ("redis.url"). The same path names its key in the
// YAML file, mechanically its variable (BATCHD_REDIS_URL) and its flag
// (--redis-url). A flag goes before the environment, that before the file, and
// that before the default.
//
// Reading is strict. Nothing is guessed or ignored: an unknown key, a number
// where a duration belongs, or an endpoint without its target is a fault, and
// [Load] reports all faults at once, each with the place where to correct it. No
// fault repeats a secret.
package config
