// Package config is batchd's configuration format. It defines the settings and their
// defaults, and reads a file, the environment and flags into one [Config]. It is the
// only reader of the environment.
//
// A setting has a dotted path ("redis.url"). This path is its key in the YAML file, and
// determines its variable (BATCHD_REDIS_URL) and its flag (--redis-url). A flag takes
// precedence over the environment, the environment over the file, and the file over the
// default.
//
// Reading is strict. Load guesses and ignores nothing: an unknown key, a number in
// place of a duration, or an endpoint without its target is a fault. [Load] reports all
// faults at once, each with its place. No fault repeats a secret.
package config
