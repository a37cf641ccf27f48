package faults

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/client"
)

// The network to Redis and that to the target are slow, break, and fall silent.
func TestABadNetworkBreaksNoPromise(t *testing.T) {
	if !long {
		t.Skip("takes minutes: run it with -tags faults")
	}
	w := newWorld(t)
	toRedis := startProxy(t, w.redis.Addr)
	toTarget := startProxy(t, strings.TrimPrefix(w.target.url, "http://"))
	w.redisURL, w.base = "redis://"+toRedis.addr+"/0", "http://"+toTarget.addr
	w.startAPI()
	w.startWorker("w0")
	w.startWorker("w1")
	load := w.startLoad(3, 20)
	look := w.startReader(load)
	for _, step := range []struct {
		name  string
		proxy *proxy
		do    func(p *proxy)
	}{
		{"Redis, latency of 50ms each way", toRedis, under(weather{latency: 50 * time.Millisecond})},
		{"Redis, 20 resets", toRedis, resets(20)},
		{"Redis, silent for 5s, then closed", toRedis, silence(5 * time.Second)},
		{"Redis, 64 KiB/s", toRedis, under(weather{bandwidth: 64 << 10})},
		{"target, latency of 300ms each way", toTarget, under(weather{latency: 300 * time.Millisecond})},
		{"target, 20 resets", toTarget, resets(20)},
		{"target, silent for 5s, then closed", toTarget, silence(5 * time.Second)},
		{"target, 1 KiB/s", toTarget, under(weather{bandwidth: 1 << 10})},
	} {
		before := len(load.batches())
		step.do(step.proxy)
		step.proxy.set(weather{})
		well := time.Now()
		eventually(t, 130*time.Second, func() bool { return load.ackedAfter(well) }, "nothing is accepted after: %s", step.name)
		accepted := time.Since(well)
		w.settle(130*time.Second, load.batches()...)
		figure(t, "network: %s: accepted %d batches, the next %.1fs after it ended, all of them ended after %.1fs",
			step.name, len(load.batches())-before, accepted.Seconds(), time.Since(well).Seconds())
	}
	batches := load.stop()
	w.settle(130*time.Second, batches...)
	reads := look.stop()
	sum := w.verifyAll(batches)
	figure(t, "network: batches=%d outcomes=%v reads_compared=%d", len(batches), sum, reads)
	require.Equal(t, len(batches)*20, sum[client.Succeeded]+sum[client.Unknown]+sum[client.Errored], "%v", sum)
}

func under(w weather) func(*proxy) {
	return func(p *proxy) {
		p.set(w)
		time.Sleep(10 * time.Second)
	}
}

func resets(n int) func(*proxy) {
	return func(p *proxy) {
		for range n {
			p.cut(true)
			time.Sleep(250 * time.Millisecond)
		}
	}
}

// silence has connections stay open without passing on anything, and then closes them.
func silence(d time.Duration) func(*proxy) {
	return func(p *proxy) {
		p.set(weather{mute: true})
		time.Sleep(d)
		p.cut(false)
	}
}
