package faults

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/client"
)

// trouble is a way in which Redis fails to serve.
type trouble struct {
	name       string
	begin, end func(r *troubledRedis)
	// reads: stored data can still be read.
	reads bool
}

// troubledRedis is a world's Redis behind a proxy.
type troubledRedis struct {
	*world
	link *link
}

func (r *troubledRedis) command(words ...string) {
	r.t.Helper()
	_, err := r.redis.Command(words...)
	require.NoError(r.t, err, "%v", words)
}

var troubles = []trouble{
	{
		name:  "down",
		begin: func(r *troubledRedis) { r.redis.Kill() },
		end:   func(r *troubledRedis) { r.redis.Restart() },
	},
	{
		name:  "frozen",
		begin: func(r *troubledRedis) { r.redis.Freeze() },
		end:   func(r *troubledRedis) { r.redis.Thaw() },
	},
	{
		name: "3s slow",
		begin: func(r *troubledRedis) {
			r.link.poison(toxic{Type: "latency", Attributes: map[string]int{"latency": 3000}})
		},
		end: func(r *troubledRedis) { r.link.cure() },
	},
	{
		name: "connections reset",
		begin: func(r *troubledRedis) {
			r.link.poison(toxic{Type: "reset_peer", Attributes: map[string]int{"timeout": 0}})
		},
		end: func(r *troubledRedis) { r.link.cure() },
	},
	{
		name:  "read-only replica",
		begin: func(r *troubledRedis) { r.command("REPLICAOF", "127.0.0.1", "1") },
		end:   func(r *troubledRedis) { r.command("REPLICAOF", "NO", "ONE") },
		reads: true,
	},
	{
		name:  "at maxmemory",
		begin: func(r *troubledRedis) { r.command("CONFIG", "SET", "maxmemory", "1mb") },
		end:   func(r *troubledRedis) { r.command("CONFIG", "SET", "maxmemory", "0") },
		reads: true,
	},
}

// answer is an answer of the API to a client, and its duration.
type answer struct {
	kind   string
	status int
	header http.Header
	body   []byte
	took   time.Duration
}

// ask makes one request without repeating it. Headers are pairs of a name and a value.
func (w *world) ask(kind, method, path string, body []byte, headers ...string) (answer, error) {
	req, err := http.NewRequest(method, "http://"+w.apiAddr+path, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	for pair := range slices.Chunk(headers, 2) {
		req.Header.Set(pair[0], pair[1])
	}
	began := time.Now()
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 30 * time.Second}).Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return answer{kind: kind, status: resp.StatusCode, header: resp.Header, body: text, took: time.Since(began)}, err
}

// submission returns the plan as a client posts it.
func (p *planned) submission(t *testing.T) []byte {
	t.Helper()
	body, err := json.Marshal(map[string]any{"actions": p.actions})
	require.NoError(t, err)
	return body
}

// refused checks that the API asked the client to come back, in its own format.
func (a *answer) refused(t *testing.T) {
	t.Helper()
	require.Equal(t, http.StatusServiceUnavailable, a.status, "%s: %s", a.kind, a.body)
	after, err := strconv.Atoi(a.header.Get("Retry-After"))
	require.NoError(t, err, a.kind)
	require.Positive(t, after, a.kind)
	if a.kind == "asana" {
		var doc struct {
			Errors []struct {
				Message string `json:"message"`
			} `json:"errors"`
		}
		require.NoError(t, json.Unmarshal(a.body, &doc), "%s", a.body)
		require.NotEmpty(t, doc.Errors, "%s", a.body)
		require.NotEmpty(t, doc.Errors[0].Message)
		return
	}
	require.Equal(t, "application/problem+json", a.header.Get("Content-Type"), a.kind)
	var doc struct {
		Status int    `json:"status"`
		Detail string `json:"detail"`
	}
	require.NoError(t, json.Unmarshal(a.body, &doc), "%s", a.body)
	require.Equal(t, http.StatusServiceUnavailable, doc.Status)
	require.NotEmpty(t, doc.Detail)
}

// Redis runs but does not serve, in every possible way. Every client is asked to come
// back within two seconds, with twenty requests at a time over four connections.
// Acknowledged batches are kept, and afterwards everything continues by itself.
func TestRedisInTroubleIsToldInTwoSeconds(t *testing.T) {
	scenario(t)
	w := newWorld(t)
	w.timeout = 5 * time.Second
	r := &troubledRedis{w, startToxiproxy(t).to("redis", w.redis.Addr)}
	w.redisURL = "redis://" + r.link.addr + "/0?pool_size=4"
	w.startAPI()
	w.redisURL = "redis://" + r.link.addr + "/0"
	w.startWorker("w0")
	w.startWorker("w1")
	for n, trouble := range troubles {
		r.suffer(n, &trouble)
	}
}

// suffer causes trouble in Redis while a batch runs.
func (r *troubledRedis) suffer(n int, trouble *trouble) {
	w, t := r.world, r.t
	t.Helper()
	earlier := plan(fmt.Sprintf("earlier%d", n), 5, http.MethodPost)
	w.submit(earlier, client.Options{})
	w.settle(20*time.Second, earlier)
	flying := plan(fmt.Sprintf("flying%d", n), 500, http.MethodPost, http.MethodGet)
	w.submit(flying, client.Options{})
	eventually(t, time.Minute, func() bool { return w.target.seen(flying.tag) > 20 }, "nothing is under way")

	began := time.Now()
	trouble.begin(r)
	time.Sleep(200 * time.Millisecond) // earlier replies of Redis have arrived
	answers, keyed := r.askAround(n, earlier.id)
	time.Sleep(time.Until(began.Add(scale(3*time.Second, 20*time.Second))))
	trouble.end(r)
	well := time.Now()

	longest, kinds := time.Duration(0), map[string]int{}
	for _, a := range answers {
		longest = max(longest, a.took)
		kinds[fmt.Sprint(a.kind, " ", a.status)]++
	}
	figure(t, "Redis %s: answers=%v the slowest after %.2fs", trouble.name, kinds, longest.Seconds())
	require.Less(t, longest, scale(8*time.Second, 2*time.Second))
	var acknowledged []string
	for _, a := range answers {
		switch {
		case a.kind == "healthz", trouble.reads && (a.kind == "get" || a.kind == "results" || a.kind == "readyz"):
			require.Equal(t, http.StatusOK, a.status, "%s: %s", a.kind, a.body)
		case a.status == http.StatusAccepted || a.status == http.StatusOK && a.kind != "readyz":
			acknowledged = append(acknowledged, strings.TrimPrefix(a.header.Get("Location"), "/batch/"))
		default:
			a.refused(t)
		}
	}
	require.Empty(t, acknowledged, "%v", kinds)

	fresh := plan(fmt.Sprintf("fresh%d", n), 20, http.MethodPost, http.MethodGet)
	w.submit(fresh, client.Options{})
	accepted := time.Since(well)
	for _, p := range keyed { // the clients repeat the submission with the same key, and get one batch
		w.submit(p, client.Options{IdempotencyKey: p.tag})
	}
	again := time.Since(well)
	require.Less(t, again, 20*time.Second, "a key that a refused upload left busy is busy for a minute")
	w.settle(scale(30*time.Second, 130*time.Second), append(keyed, fresh)...)
	found, _ := w.verify(fresh)
	require.Equal(t, tally{client.Succeeded: 20}, found)
	for _, p := range keyed {
		found, _ = w.verify(p)
		require.Equal(t, tally{client.Succeeded: len(p.actions)}, found)
	}
	ended := time.Since(well)
	// Actions whose tasks Redis lost start a minute or two later. The short form does
	// not wait for them.
	underWay := "not awaited"
	if open := w.open(scale(0, 130*time.Second), flying); len(open) == 0 {
		found, _ = w.verify(flying)
		require.Equal(t, 500, found[client.Succeeded]+found[client.Unknown], "%v", found)
		underWay = fmt.Sprintf("after %.1fs: %v", time.Since(well).Seconds(), found)
	} else {
		require.False(t, long, "%s does not end", flying.tag)
	}
	figure(t, "Redis %s: afterwards: accepted after %.1fs, under the same idempotency keys after %.1fs, new batches ended after %.1fs, one under way: %s",
		trouble.name, accepted.Seconds(), again.Seconds(), ended.Seconds(), underWay)
}

// askAround makes all kinds of requests at once, and returns the batches whose
// submissions had idempotency keys.
func (r *troubledRedis) askAround(n int, earlier string) (answers []answer, keyed []*planned) {
	t := r.t
	t.Helper()
	const each = 20
	var wg sync.WaitGroup
	var mu sync.Mutex
	ask := func(kind, method, path string, body []byte, headers ...string) {
		wg.Go(func() {
			a, err := r.ask(kind, method, path, body, headers...)
			if err != nil {
				t.Errorf("%s: %v", kind, err)
				return
			}
			mu.Lock()
			answers = append(answers, a)
			mu.Unlock()
		})
	}
	for i := range each {
		body := plan(fmt.Sprintf("refused%d.%d", n, i), 5, http.MethodPost).submission(t)
		ask("post", http.MethodPost, "/batch", body)
		ask("post and wait", http.MethodPost, "/batch", body, "Prefer", "wait=20")
		p := plan(fmt.Sprintf("keyed%d.%d", n, i), 5, http.MethodPost)
		keyed = append(keyed, p)
		ask("post with key", http.MethodPost, "/batch", p.submission(t), "Idempotency-Key", p.tag)
		ask("asana", http.MethodPost, "/asana", []byte(`{"data":{"actions":[{"relative_path":"/do/asana","method":"get"}]}}`), "Authorization", "Bearer token")
		ask("get", http.MethodGet, "/batch/"+earlier, nil)
		ask("results", http.MethodGet, "/batch/"+earlier+"/results", nil)
	}
	ask("readyz", http.MethodGet, "/readyz", nil)
	ask("healthz", http.MethodGet, "/healthz", nil)
	wg.Wait()
	return answers, keyed
}

// Redis becomes full. Above 80 % it refuses new batches, and accepted batches run to
// their end.
func TestAFullRedisRefusesNewBatchesAndDrains(t *testing.T) {
	scenario(t)
	w := newWorld(t)
	w.startAPI()
	hold := make(chan struct{})
	w.target.set(func(x *target) {
		x.delay = time.Millisecond
		x.gate = func(*visit) <-chan struct{} { return hold }
	})
	w.startWorker("w0")
	p := plan("full", 5_000, http.MethodPost, http.MethodGet)
	w.submit(p, client.Options{})
	r := &troubledRedis{w, nil}
	eventually(t, 30*time.Second, func() bool {
		return r.number(`redis.call('HGET', 'batchd:{`+p.id+`}:m', 'enqueued')`) == len(p.actions)
	}, "the batch is not enqueued")
	used := r.used() + 600*len(p.actions) // this includes the room for results
	r.command("CONFIG", "SET", "maxmemory", strconv.Itoa(used*100/85))
	time.Sleep(1100 * time.Millisecond) // the server checks the memory once per second
	a, err := w.ask("post", http.MethodPost, "/batch", plan("refused", 1, http.MethodGet).submission(t))
	require.NoError(t, err)
	a.refused(t)
	w.target.set(func(x *target) { x.gate = nil })
	close(hold)
	w.settle(60*time.Second, p)
	most := r.used()
	found, _ := w.verify(p)
	require.Equal(t, tally{client.Succeeded: 5_000}, found)
	figure(t, "full Redis: used %d KB of %d, with the room for results, when new batches were refused, %d KB when all 5000 results were there", used>>10, (used*100/85)>>10, most>>10)
	r.command("CONFIG", "SET", "maxmemory", strconv.Itoa(2*most))
	well := time.Now()
	fresh := plan("fresh", 20, http.MethodPost)
	w.submit(fresh, client.Options{})
	figure(t, "full Redis: accepted again %.1fs after there was room", time.Since(well).Seconds())
	w.settle(20*time.Second, fresh)
}

// number evaluates a Lua expression in Redis and returns the number.
func (r *troubledRedis) number(expression string) int {
	r.t.Helper()
	line, err := r.redis.Command("EVAL", "return tonumber("+expression+")", "0")
	require.NoError(r.t, err)
	n, err := strconv.Atoi(strings.TrimPrefix(line, ":"))
	require.NoError(r.t, err)
	return n
}

// used returns the memory that Redis uses, in bytes.
func (r *troubledRedis) used() int {
	r.t.Helper()
	return r.number(`string.match(redis.call('INFO', 'memory'), 'used_memory:(%d+)')`)
}
