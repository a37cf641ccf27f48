// Bench measures the real batchd binary beside what it is to beat, on this
// machine, with everything that takes part in it:
//
//	go run ./bench                                  # all scenarios, three rounds
//	go run ./bench --scenario throughput,latency    # some of them; --help has the names
//	go run ./bench --contender asynq-4,batchd       # some of the contenders
//	go run ./bench --short                          # that it runs, and little more
//	go run ./bench --batchd /tmp/other/batchd       # another build
//	go run ./bench --json figures.json              # every round of every figure
//	go run ./bench predict --workers 4 --latency exp:50ms   # no measurement, only the simulation
//
// It builds batchd, and needs redis-server. Everything else is in it: the target
// and the peers are this program, started again with a hidden subcommand.
//
// # Contenders
//
//	plain     a fan-out to the target from the client's process, nothing stored: the limit
//	asynq-1   asynq by hand: a task an action with the request as its payload, the answer
//	          as its result; one server in a process of its own
//	asynq-4   the same with four servers in that process, each with a quarter of the slots
//	batchd    the real binary over HTTP, `batchd serve` or, with --split, an API and a worker
//
// Every run has a Redis (append-only file, --appendfsync), a target and processes
// of its own, so none starts with what another left behind. Contenders take turns
// within a round, and who begins changes. Scripts are loaded and connections made
// before the clock starts. All of it shares the machine, as the figures to reach
// are meant.
//
// Every result is checked after the clock has stopped: its position, its status, its
// body, byte by byte, and that the target got every request once. A scenario with a
// wrong result has no figures, and the exit code is then 1. A figure that is not
// reached is said so, and is no error.
//
// # Scenarios
//
//	throughput  20,000 POSTs of 200 bytes, 64 in flight
//	latency     ten actions, 200 times; batchd is asked to wait and answers with the
//	            results, asynq enqueues and collects in the servers' own process
//	slow        10,000 actions to a target that takes 100 ms, 1,000 in flight
//	large       100,000 actions of 1 KiB in one NDJSON upload, beside batches of 1,000;
//	            API and worker apart, and their memory in each phase
//	fair        batches of ten, alone and beside 100,000 actions of another owner
//	owners      batches of ten at a target of 20 ms with 16 slots, alone and beside 20,000 actions
//	            of another owner, in one batch and in 200, and in 200 of the same owner
//	scale       1, 2 and 4 worker processes with 8 slots each and a target of 20 ms
//	idle        what an idle worker process with ten targets sends to Redis
//	poll        GET /batch/{id} of 100,000 actions and of ten, while they run and after
//	sealed      throughput with seal.keys and without
//	fsync       throughput with appendfsync always and everysec
//	model       what a simulation predicts, and what batchd then does, bound by a target's
//	            latency, by its rate and by CPU
//
// Large, fair, owners, scale, poll, sealed, fsync and model compare batchd with itself. Configuration that a
// scenario does not need is left at its default. With --batch, throughput and slow
// submit their actions in several batches, four uploads at a time.
//
// # Reading the figures
//
// The tables show medians of the rounds. A ratio is taken within each round, and
// the median is that of the ratios. How much rounds differ says how far to trust
// them.
//
//	in_hand       actions a second until the client has read all results, in order
//	readable      the same until the last result can be read
//	submitted, ended, read   when all was accepted, could be read, was read, from the start
//	took          from the submission until the results are in hand, by action
//	cpu_…         processor seconds of 1,000 actions: of the client (this process), the
//	              contender's processes (each kind by its name where there are several),
//	              Redis, the target. The kernel counts in steps of 10 ms, so short runs
//	              are coarse. asynq's client enqueues and collects, which batchd does in
//	              its server: cpu_all_three counts that on both sides.
//	others        what everything else on the machine took of it meanwhile: where it is
//	              more than a few percent, the figures are of a busy machine
//	rss_server    peak memory of the contender's processes together (VmHWM)
//	redis_peak    peak memory of Redis (used_memory_peak)
//	redis_kept    what an action that has ended keeps of it until its batch is removed (used_memory);
//	              redis_queued that of one that waits for a worker
//	redis_commands, redis_reads   commands that Redis ran, those of scripts included,
//	              and times that it read from a connection: one for a whole pipeline
//	redis_in, redis_out, http_in, http_out   bytes that Redis, and batchd's API, received
//	              and sent
//	api_…, worker_…   peak memory of that process in a phase; …_tenth that while the first
//	              tenth went over the wire. What is flat has the same at the end.
//
// Model measures first what an action costs, in runs that are none of those that it
// predicts: submit and fan_out with no worker there, run and redis (processor time) with
// half as many actions in one `batchd serve`, exchange with one slot. Its mean, p50 and
// p99 are of the time from the beginning of the submission until an action's attempt
// has ended. The simulation gets the CPU time that everything else on the machine took
// meanwhile (others), and has that much less of each core.
//
// The last table of throughput and idle counts Redis's commands, told apart by MONITOR
// into those that clients sent and those that scripts called. Nothing is timed
// meanwhile, since that slows Redis down.
package main
