package faults

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/client"
)

// toxics are faults of a network: it is slow, has little bandwidth, breaks connections,
// splits data into small pieces, or becomes silent.
var toxics = []struct {
	name string
	toxic
}{
	{"latency of 200ms, varied by 100", toxic{Type: "latency", Attributes: map[string]int{"latency": 200, "jitter": 100}}},
	{"reset within 100ms", toxic{Type: "reset_peer", Attributes: map[string]int{"timeout": 100}}},
	{"close 1s late", toxic{Type: "slow_close", Attributes: map[string]int{"delay": 1000}}},
	{"16 KB/s", toxic{Type: "bandwidth", Attributes: map[string]int{"rate": 16}}},
	{"nothing passes, closed after 2s", toxic{Type: "timeout", Attributes: map[string]int{"timeout": 2000}}},
	{"pieces of 64 bytes", toxic{Type: "slicer", Attributes: map[string]int{"average_size": 64, "size_variation": 32, "delay": 100}}},
	{"closed after 2000 bytes", toxic{Type: "limit_data", Attributes: map[string]int{"bytes": 2000}}},
	{"reset, the requests too", toxic{Type: "reset_peer", Stream: "upstream", Attributes: map[string]int{"timeout": 50}}},
	{"half of the connections reset", toxic{Type: "reset_peer", Toxicity: 0.5, Attributes: map[string]int{"timeout": 0}}},
}

// Each of the four links in turn has each of the toxics.
func TestABadNetworkBreaksNoPromise(t *testing.T) {
	scenario(t)
	w := newWorld(t)
	x := startToxiproxy(t)
	redis, toTarget, toReceiver := x.to("redis", w.redis.Addr), x.to("target", w.target.url), x.to("receiver", w.receiver.url)
	toAPI := x.to("api", w.apiAddr)
	w.redisURL, w.base, w.hookURL = "redis://"+redis.addr+"/0", "http://"+toTarget.addr, "http://"+toReceiver.addr+"/hook"
	w.client = w.newClient(toAPI.addr)
	w.startAPI()
	w.startWorker("w0")
	w.startWorker("w1")
	load := w.startLoad(scale(1, 3), 20)
	look := w.startReader(load)
	// Actions whose tasks Redis lost may take two minutes, so the short form leaves
	// that link to the scenarios of Redis in trouble.
	links := scale([]*link{toAPI, toTarget, toReceiver}, []*link{toAPI, redis, toTarget, toReceiver})
	kinds := scale(toxics[1:3], toxics)
	settled := 0
	for _, l := range links {
		for _, kind := range kinds {
			before := len(load.batches())
			l.poison(kind.toxic)
			time.Sleep(scale(time.Second, 5*time.Second))
			l.cure()
			well := time.Now()
			eventually(t, 130*time.Second, func() bool { return load.ackedAfter(well) }, "nothing is accepted after: %s, %s", l.name, kind.name)
			accepted := time.Since(well)
			until := load.batches()
			w.settle(130*time.Second, until[settled:]...)
			ended := time.Since(well)
			settled = len(until)
			figure(t, "network: %s, %s: accepted %d batches, the next %.1fs after it ended, all of them ended after %.1fs",
				l.name, kind.name, len(until)-before, accepted.Seconds(), ended.Seconds())
		}
	}
	batches := load.stop()
	w.settle(130*time.Second, batches[settled:]...)
	reads := look.stop()
	sum := w.verifyAll(batches)
	figure(t, "network: batches=%d outcomes=%v reads_compared=%d", len(batches), sum, reads)
	require.Equal(t, len(batches)*20, sum[client.Succeeded]+sum[client.Unknown]+sum[client.Errored], "%v", sum)
	require.Greater(t, sum[client.Succeeded], len(batches)*10, "%v", sum)
	ids := make(map[string]int)
	eventually(t, 130*time.Second, func() bool {
		clear(ids)
		for _, h := range w.receiver.match(func(hook) bool { return true }) {
			ids[h.event.Batch.ID]++
		}
		return len(ids) >= len(batches)
	}, "not every batch was told of")
	repeated := 0
	for _, p := range batches {
		require.Positive(t, ids[p.id], "batch %s was not told of", p.tag)
		repeated += ids[p.id] - 1
	}
	figure(t, "network: webhooks: batches=%d told=%d repeated=%d", len(batches), len(batches), repeated)
}
