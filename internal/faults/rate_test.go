package faults

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/client"
)

// rated is a target with a rate, and the number of actions for it.
type rated struct {
	rate   string
	burst  int
	number int           // of the rate
	per    time.Duration // its period
	n      int
}

// lateness measures how late a goroutine continues on this machine, until it is stopped: the most, and
// the sum beyond the tolerance of a pacer at any rate. A target sees requests with this additional
// delay.
func lateness() (stop func() (most, beyond time.Duration)) {
	type found struct{ most, beyond time.Duration }
	quit, end := make(chan struct{}), make(chan found)
	go func() {
		const nap, tolerated = time.Millisecond, 5 * time.Millisecond
		var f found
		for {
			slept := time.Now()
			select {
			case <-time.After(nap):
				late := time.Since(slept) - nap
				f.most = max(f.most, late)
				f.beyond += max(late-tolerated, 0)
			case <-quit:
				end <- f
				return
			}
		}
	}()
	return func() (most, beyond time.Duration) {
		close(quit)
		f := <-end
		return f.most, f.beyond
	}
}

// arrivals returns when the requests of a batch reached the target.
func (x *target) arrivals(tag string) (times []time.Time) {
	x.count(func(v *visit) bool {
		if strings.HasPrefix(v.id, tag+"-") {
			times = append(times, v.began)
		}
		return false
	})
	slices.SortFunc(times, time.Time.Compare)
	return times
}

// densest returns the most of the times in any half-open window of that length.
func densest(times []time.Time, window time.Duration) (most int) {
	for i, j := 0, 0; j < len(times); j++ {
		for times[j].Sub(times[i]) >= window {
			i++
		}
		most = max(most, j-i+1)
	}
	return most
}

// Redis is some distance away. Targets with fast and slow rates receive as many requests as
// the rates allow, and no fewer.
func TestARateIsKeptAndUsedFarFromRedis(t *testing.T) { //nolint:paralleltest // it measures send times, which other tests would delay
	rates := scale([]rated{
		{"1/s", 1, 1, time.Second, 10},
		{"1/5s", 1, 1, 5 * time.Second, 3},
		{"10/s", 1, 10, time.Second, 80},
		{"10/s", 4, 10, time.Second, 60},
		{"200/s", 1, 200, time.Second, 1000},
		{"1/m", 1, 1, time.Minute, 1},
	}, []rated{
		{"1/s", 1, 1, time.Second, 40},
		{"1/5s", 1, 1, 5 * time.Second, 8},
		{"10/s", 1, 10, time.Second, 200},
		{"10/s", 4, 10, time.Second, 200},
		{"100/s", 1, 100, time.Second, 2000},
		{"1000/s", 1, 1000, time.Second, 5000},
		{"1/m", 1, 1, time.Minute, 3},
		{"5/24h", 1, 5, 24 * time.Hour, 1},
	})
	for _, workers := range scale([]int{2}, []int{1, 2}) {
		for _, trip := range scale([]time.Duration{60 * time.Millisecond}, []time.Duration{0, 60 * time.Millisecond, 250 * time.Millisecond}) {
			farFromRedis(t, rates, workers, trip)
		}
	}
	alone := []rated{
		{"1/s", 1, 1, time.Second, 10},
		{"10/s", 1, 10, time.Second, 80},
		{"200/s", 1, 200, time.Second, 1000},
		{"1000/s", 1, 1000, time.Second, 3000},
	}
	for _, workers := range scale(nil, []int{1, 2}) {
		aloneFarFromRedis(t, alone, workers, 250*time.Millisecond)
	}
}

// farWorld starts a world whose workers are some distance from Redis, with a target for each
// rate.
func farWorld(t *testing.T, rates []rated, workers int, trip time.Duration) (w *world, names []string) {
	t.Helper()
	w = newWorld(t)
	w.target.delay = 5 * time.Millisecond
	names = make([]string, len(rates))
	for i, r := range rates {
		names[i] = fmt.Sprintf("rated%d", i)
		w.targets += fmt.Sprintf("  - {name: %s, base_url: %q, concurrency: 128, rate: %s, burst: %d}\n", names[i], w.base+"/any", r.rate, r.burst)
	}
	w.startAPI()
	if trip > 0 {
		l := startToxiproxy(t).to("redis", w.redis.Addr)
		for _, stream := range []string{"upstream", "downstream"} {
			l.poison(toxic{Type: "latency", Stream: stream, Attributes: map[string]int{"latency": int(trip.Milliseconds() / 2)}})
		}
		w.redisURL = "redis://" + l.addr + "/0"
	}
	for i := range workers {
		w.startWorker(fmt.Sprint("w", i))
	}
	time.Sleep(20*trip + 500*time.Millisecond) // until they have measured the distance, like workers that have run for a while
	return w, names
}

// aloneFarFromRedis sends n actions at each rate, one rate after the other. From the first to the last request
// they take n/rate and one round trip, and the first one follows 2.5 to 3 round trips after the submission.
func aloneFarFromRedis(t *testing.T, rates []rated, workers int, trip time.Duration) {
	t.Helper()
	w, names := farWorld(t, rates, workers, trip)
	for i, r := range rates {
		p := plan(fmt.Sprintf("alone%d-%d-%d", i, workers, trip.Milliseconds()), r.n, http.MethodPost)
		due := time.Duration(r.n) * r.per / time.Duration(r.number)
		late := lateness()
		submitted := time.Now()
		w.submit(p, client.Options{Target: names[i]})
		w.settle(2*due+20*time.Second, p)
		latest, beyond := late()
		slack := 50*time.Millisecond + latest + 2*beyond
		if workers > 1 && r.number >= 1000 {
			// A request that misses its send time may find only times of another worker within its
			// permitted wait, and goes back to the queue.
			slack += 4 * trip
		}
		times := w.target.arrivals(p.tag)
		require.Len(t, times, r.n)
		took, start := times[r.n-1].Sub(times[0]), times[0].Sub(submitted)
		figure(t, "rate %s alone, %d workers, %s to Redis: %d requests in %.2fs from the first to the last, due %.2fs and a round trip; the first one %.2fs after the submission (%.1f round trips); slack %s",
			r.rate, workers, trip, r.n, took.Seconds(), due.Seconds(), start.Seconds(), start.Seconds()/trip.Seconds(), slack.Round(time.Millisecond))
		require.LessOrEqual(t, took, due+trip+slack, "%s", r.rate)
	}
}

func farFromRedis(t *testing.T, rates []rated, workers int, trip time.Duration) {
	t.Helper()
	w, names := farWorld(t, rates, workers, trip)
	batches := make([]*planned, len(rates))
	submitted := make([]time.Time, len(rates))
	for i, r := range rates {
		batches[i] = plan(fmt.Sprintf("%s-%d-%d", names[i], workers, trip.Milliseconds()), r.n, http.MethodPost)
		submitted[i] = time.Now()
		w.submit(batches[i], client.Options{Target: names[i]})
	}
	late := lateness()
	for i, r := range rates {
		w.settle(time.Until(submitted[i].Add(2*time.Duration(r.n)*r.per/time.Duration(r.number)))+20*time.Second, batches[i])
	}
	latest, _ := late()
	blur := 4*time.Millisecond + latest
	for i, r := range rates {
		due := time.Duration(r.n) * r.per / time.Duration(r.number)
		times := w.target.arrivals(batches[i].tag)
		require.Len(t, times, r.n)
		took, sent := times[r.n-1].Sub(submitted[i]), times[r.n-1].Sub(times[0])
		most := densest(times, r.per-min(blur, r.per/4))
		figure(t, "rate %s, burst %d, %d workers, %s to Redis: %d requests in %.2fs (%.2fs from the first on), due %.2fs; at most %d in a window (%d in one of %s less)",
			r.rate, r.burst, workers, trip, r.n, took.Seconds(), sent.Seconds(), due.Seconds(), densest(times, r.per), most, blur.Round(time.Millisecond))
		require.LessOrEqual(t, most, r.number+r.burst-1, "%s", r.rate)
		// On a busy machine with parallel tests, workers miss some send times of fast rates.
		require.Less(t, took, due+due/2+4*trip+3*time.Second, "%s", r.rate)
	}
}
