// Bench measures the real batchd binary beside what it is to beat, on this
// machine, with everything that takes part in it:
//
//	go run ./bench                                  # all scenarios, three rounds
//	go run ./bench --scenario throughput,latency    # some of them; --help has the names
//	go run ./bench --contender asynq-4,batchd       # some of the contenders
//	go run ./bench --short                          # that it runs, and little more
//	go run ./bench --batchd /tmp/other/batchd       # another build
//	go run ./bench --json figures.json              # every round of every figure
//
// It builds batchd, and needs redis-server. Everything else is in it: the target
// and the peers are this program, started again with a hidden subcommand.
//
// # Contenders
//
//	plain     a fan-out to the target from the client's process, nothing stored: the limit
//	asynq-1   asynq by hand: a task an action with the request as its payload, the answer
//	          as its result; one server in a process of its own
//	asynq-4   the same with four servers in that process, each with a quarter of the places
//	batchd    the real binary over HTTP, `batchd serve` or, with --split, an API and a worker
//
// Every run has a Redis (append-only file, --appendfsync), a target and processes
// of its own, so none starts with what another left behind. Contenders take turns
// within a round, and who begins changes. Scripts are loaded and connections made
// before the clock starts. All of it shares the machine, as the figures to reach
// are meant.
//
// Every result is checked after the clock has stopped: its place, its status, its
// body, byte by byte, and that the target got every request once. A scenario with a
// wrong result has no figures, and the exit code is then 1. A figure that is not
// reached is said so, and is no error.
//
// # Reading the figures
//
// The tables show medians of the rounds. A ratio is taken within each round, and
// the median is that of the ratios. How much rounds differ says how far to trust
// them.
//
//	in_hand       actions a second until the client has read all results, in order
//	readable      the same until the last result can be read
//	submitted, ended, read   when that was, from the start
//	cpu_…         processor seconds of 1,000 actions: of the client (this process), the
//	              contender's processes, Redis, the target. The kernel counts in steps
//	              of 10 ms, so short runs are coarse. asynq's client enqueues and
//	              collects, which batchd does in its server.
//	others        what everything else on the machine took of it meanwhile: where it is
//	              more than a few percent, the figures are of a busy machine
//	rss_server    peak memory of the contender's processes together (VmHWM)
//	redis_peak    peak memory of Redis (used_memory_peak)
//	redis_commands, redis_reads   commands that Redis ran, those of scripts included,
//	              and times that it read from a connection: one for a whole pipeline
//	redis_in, redis_out, http_in, http_out   bytes to and from Redis, and batchd
//
// The last table of throughput counts Redis's commands in a run of its own that is
// not timed, told apart by MONITOR into those that clients sent and those that
// scripts called.
package main
