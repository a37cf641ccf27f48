package main

import (
	"context"
	"maps"
	"os"
	"runtime"
	"slices"
	"time"
)

// snapshot has the resources used up to a moment.
type snapshot struct {
	at                                    time.Time
	client, server, redis, target, others time.Duration            // processor time; others is everything except these four
	servers                               map[string]time.Duration // of the contender's processes, by name
	read, written                         int64                    // bytes between client and batchd
	info                                  map[string]float64
}

func (w *world) snapshot(ctx context.Context) (snapshot, error) {
	s := snapshot{at: time.Now(), servers: make(map[string]time.Duration), read: w.http.read.Load(), written: w.http.written.Load()}
	var err error
	if s.info, err = w.redis.info(ctx, "stats", "memory"); err != nil {
		return s, err
	}
	if s.client, err = cpuOf(os.Getpid()); err != nil {
		return s, err
	}
	if s.redis, err = cpuOf(w.redis.pid); err != nil {
		return s, err
	}
	if s.target, err = cpuOf(w.target.pid); err != nil {
		return s, err
	}
	for _, p := range w.servers {
		used, err := cpuOf(p.pid)
		if err != nil {
			return s, err
		}
		s.server += used
		s.servers[p.name] += used
	}
	busy, err := busyOf()
	s.others = busy - s.client - s.server - s.redis - s.target
	return s, err
}

// usage adds to a row the resources that n actions used between two snapshots.
func (w *world) usage(row *row, before, after snapshot, n int) error {
	perThousand := func(a, b time.Duration) float64 { return (b - a).Seconds() * 1000 / float64(n) }
	perAction := func(name string) float64 { return (after.info[name] - before.info[name]) / float64(n) }
	client, server, redis := perThousand(before.client, after.client), perThousand(before.server, after.server), perThousand(before.redis, after.redis)
	row.add("cpu_client", "s/1000", client)
	row.add("cpu_server", "s/1000", server)
	row.add("cpu_redis", "s/1000", redis)
	if len(after.servers) > 1 {
		for _, name := range slices.Sorted(maps.Keys(after.servers)) {
			row.add("cpu_"+name, "s/1000", perThousand(before.servers[name], after.servers[name]))
		}
	}
	row.add("cpu_target", "s/1000", perThousand(before.target, after.target))
	row.add("cpu_server_redis", "s/1000", server+redis)
	row.add("cpu_all_three", "s/1000", client+server+redis)
	if len(w.servers) > 0 {
		var peak int64
		for _, p := range w.servers {
			bytes, err := peakOf(p.pid)
			if err != nil {
				return err
			}
			peak += bytes
		}
		row.add("rss_server", "MiB", mib(peak))
		row.add("redis_peak", "MiB", after.info["used_memory_peak"]/(1<<20))
		row.add("redis_kept", "B/action", perAction("used_memory"))
		row.add("redis_commands", "1/action", perAction("total_commands_processed"))
		row.add("redis_reads", "1/action", perAction("total_reads_processed"))
		row.add("redis_in", "B/action", perAction("total_net_input_bytes"))
		row.add("redis_out", "B/action", perAction("total_net_output_bytes"))
	}
	if after.written > 0 {
		row.add("http_in", "B/action", float64(after.written-before.written)/float64(n))
		row.add("http_out", "B/action", float64(after.read-before.read)/float64(n))
	}
	machine := after.at.Sub(before.at).Seconds() * float64(runtime.NumCPU())
	row.add("others", "% of the machine", 100*max(0, (after.others-before.others).Seconds()/machine))
	return nil
}

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }
