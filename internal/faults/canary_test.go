package faults

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/redistest"
)

// aviary is an installation in which every credential has the same secret in it, the canary, and
// all places where a credential could come to light are kept.
type aviary struct {
	*world
	core string // the canary
	key  string // a key of batchd
	rdb  *redis.Client
	hook string // the URL of the receiver

	unmonitor func() []byte // ends the monitor, and returns what clients said to Redis

	mu        sync.Mutex
	places    map[string]*bytes.Buffer // what is public, by its place
	processes []*process
	allowed   []string // further secrets, such as those that sign webhooks
	ended     map[string]int
	hooks     atomic.Int64
}

// credential returns a credential in which the canary is, and characters that are written
// differently in JSON, URLs and headers.
func (a *aviary) credential(of string) string { return "tok-" + a.core + `"/\+=~ ` + of }

// keep adds to what is kept of a place.
func (a *aviary) keep(place string, text ...[]byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.places[place] == nil {
		a.places[place] = &bytes.Buffer{}
	}
	for _, t := range text {
		_, _ = a.places[place].Write(append(bytes.Clone(t), '\n'))
	}
}

// keepHeader adds a header to what is kept of a place.
func (a *aviary) keepHeader(place string, h http.Header) {
	var text bytes.Buffer
	_ = h.Write(&text) // a buffer accepts every write
	a.keep(place, text.Bytes())
}

func newAviary(t *testing.T) *aviary {
	t.Helper()
	a := &aviary{core: random(16), places: map[string]*bytes.Buffer{}, ended: map[string]int{}}
	server := redistest.Start(t, "--appendonly", "yes", "--aof-use-rdb-preamble", "no", "--rdbcompression", "no", "--slowlog-log-slower-than", "0", "--slowlog-max-len", "100000")
	a.world = newWorldOn(t, server.URL())
	a.redis = server
	password := a.core + "-redis"
	open := redis.NewClient(&redis.Options{Addr: server.Addr})
	require.NoError(t, open.ConfigSet(t.Context(), "requirepass", password).Err())
	require.NoError(t, open.SlowLogReset(t.Context()).Err())
	require.NoError(t, open.Close())
	a.rdb = redis.NewClient(&redis.Options{Addr: server.Addr, Password: password})
	t.Cleanup(func() { _ = a.rdb.Close() })
	a.redisURL = strings.Replace(server.URL(), "://", "://:"+password+"@", 1)
	a.base = listen(t, "127.0.0.1:0", http.HandlerFunc(a.serveTarget))
	a.hook = listen(t, "127.0.0.1:0", http.HandlerFunc(a.serveHook))
	a.monitor()
	return a
}

// monitor keeps what clients say to Redis, the arguments of scripts included.
func (a *aviary) monitor() {
	a.t.Helper()
	conn, err := net.Dial("tcp", a.redis.Addr)
	require.NoError(a.t, err)
	_, err = fmt.Fprintf(conn, "AUTH %s-redis\r\nMONITOR\r\n", a.core)
	require.NoError(a.t, err)
	in := bufio.NewReader(conn)
	for range 2 {
		line, err := in.ReadString('\n')
		require.NoError(a.t, err)
		require.Equal(a.t, "+OK\r\n", line)
	}
	heard := make(chan []byte, 1)
	go func() {
		all, _ := io.ReadAll(in) // until it is closed
		heard <- all
	}()
	a.unmonitor = sync.OnceValue(func() []byte {
		// Redis passes a command on when it runs it, so what came before this one is there.
		require.NoError(a.t, a.rdb.Echo(a.t.Context(), "the end").Err())
		_ = conn.(*net.TCPConn).CloseWrite()
		return <-heard
	})
	a.t.Cleanup(func() { _ = conn.Close() })
}

// settingsFile writes the configuration of a process.
func (a *aviary) settingsFile(name string) string {
	a.t.Helper()
	a.starts++
	file := filepath.Join(a.dir, fmt.Sprintf("%s-%d.yaml", name, a.starts))
	url, password := a.redisURL, ""
	if a.starts%2 == 0 { // a process has the password in the URL or beside it
		url, password = a.redis.URL(), fmt.Sprintf(", password: %q", a.core+"-redis")
	}
	target := func(name, base, more string) string {
		return fmt.Sprintf("  - {name: %s, base_url: %q, concurrency: 16, timeout: 2s, allow_body: [DELETE], retry: {attempts: 3, base: 20ms, max: 100ms, budget: 4s}%s}\n", name, base, more)
	}
	endpoint := func(path, dialect string) string {
		return fmt.Sprintf("  - {path: %q, dialect: %s, target: api, wait: 10s}\n", path, dialect)
	}
	nowhere := "http://127.0.0.1:1"
	text := "log: {level: debug, format: json}\nauth: {modes: [keys, passthrough]}\n" +
		fmt.Sprintf("redis: {url: %q%s}\n", url, password) +
		fmt.Sprintf("webhooks: {secret: %q, allow_private: true}\n", "whsec_"+a.core+strings.Repeat("A", 27)+"=") +
		fmt.Sprintf("seal: {keys: [{id: one, base64: %q}]}\n", a.core+strings.Repeat("B", 26)+"A=") +
		"targets:\n" + target("api", a.base+"/api", "") + target("standard", a.base+"/api", ", http_client: standard") +
		target("tx", a.base+"/api", ", transactions: {begin: {method: POST, path: /tx}, id: {pointer: /id}, send_as: {header: X-Tx}, commit: {method: POST, path: '/tx/{id}/commit'}, rollback: {method: DELETE, path: '/tx/{id}'}}") +
		target("nowhere", nowhere, "") +
		target("clear", strings.Replace(a.base, "http:", "https:", 1), "") + // it does not speak TLS
		target("proxied", "http://proxied.example", fmt.Sprintf(", proxy: %q", "http://user:"+a.core+"@127.0.0.1:1")) +
		target("tunnel", "https://tunnel.example", fmt.Sprintf(", proxy: %q", strings.Replace(a.base, "://", "://user:"+a.core+"@", 1))) +
		"endpoints:\n" + endpoint("/asana", "asana") + endpoint("/requests", "requests") + endpoint("/v1.1/instances/:instance/batch", "syncano") + endpoint("/primaerp", "primaerp")
	require.NoError(a.t, os.WriteFile(file, []byte(text), 0o600))
	return file
}

// launch starts a process, and keeps the addresses of its metrics.
func (a *aviary) launch(name string) *process {
	a.t.Helper()
	args, up := []string{name, "--worker-listen", redistest.FreeAddr(a.t)}, "worker started"
	if name == "api" {
		args, up = []string{name, "--listen", a.apiAddr, "--monitor-listen", redistest.FreeAddr(a.t)}, "batchd is up"
	}
	args = append(args, "--config", a.settingsFile(name))
	p := a.newProcess(name, exec.Command(binary, args...))
	p.run()
	p.awaitLog(up)
	a.mu.Lock()
	a.processes = append(a.processes, p)
	a.mu.Unlock()
	return p
}

// command runs a command to its end, and keeps what it prints.
func (a *aviary) command(env []string, name string, args ...string) {
	a.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), env...)
	out, _ := cmd.CombinedOutput() // many commands are meant to fail
	a.keep("output of commands", out)
}

// inspect keeps what can be read about the processes that run.
func (a *aviary) inspect() {
	a.t.Helper()
	a.mu.Lock()
	all := slices.Clone(a.processes)
	a.mu.Unlock()
	for _, p := range all {
		a.inspectProcess(p)
	}
}

func (a *aviary) inspectProcess(p *process) {
	select {
	case <-p.done:
		return // it was killed
	default:
	}
	if line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.cmd.Process.Pid)); err == nil {
		a.keep("arguments of processes", line)
	}
	for i, arg := range p.cmd.Args {
		if strings.HasSuffix(arg, "listen") {
			for _, path := range []string{"/metrics", "/readyz", "/readyz?verbose", "/healthz"} {
				a.scrape("http://" + p.cmd.Args[i+1] + path)
			}
		}
	}
}

// scrape keeps an answer as a whole.
func (a *aviary) scrape(url string) {
	resp, err := http.Get(url)
	if err != nil {
		return // the process was killed meanwhile
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	a.keepHeader("metrics", resp.Header)
	a.keep("metrics", body)
}

// collect returns all places, those in Redis and the logs included.
func (a *aviary) collect() map[string][]byte {
	a.t.Helper()
	ctx := a.t.Context()
	all := map[string][]byte{}
	// The files first, so that reading does not write.
	require.NoError(a.t, a.rdb.Save(ctx).Err())
	dir := a.rdb.ConfigGet(ctx, "dir").Val()["dir"]
	require.NoError(a.t, filepath.WalkDir(dir, func(name string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(name) //nolint:gosec // the file is the test's own
		place := "the AOF"
		if strings.HasSuffix(name, ".rdb") && !strings.Contains(name, "appendonly") {
			place = "the RDB"
		}
		all[place] = append(all[place], content...)
		return err
	}))
	all["keys of Redis"] = a.keys()
	for _, entry := range a.rdb.SlowLogGet(ctx, -1).Val() {
		all["the slow log of Redis"] = append(all["the slow log of Redis"], strings.Join(entry.Args, " ")+"\n"...)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range a.processes {
		p.mu.Lock()
		all["logs"] = append(all["logs"], p.log.Bytes()...)
		p.mu.Unlock()
	}
	for place, text := range a.places {
		all[place] = bytes.Clone(text.Bytes())
	}
	return all
}

// keys returns all keys of Redis with their values, as they are read and as DUMP returns them.
func (a *aviary) keys() []byte {
	ctx := a.t.Context()
	var out bytes.Buffer
	all := a.rdb.Scan(ctx, 0, "", 1000).Iterator()
	for all.Next(ctx) {
		key := all.Val()
		out.WriteString(key + "\n" + a.rdb.Dump(ctx, key).Val() + "\n")
		switch a.rdb.Type(ctx, key).Val() {
		case "string":
			out.WriteString(a.rdb.Get(ctx, key).Val())
		case "hash":
			for f, v := range a.rdb.HGetAll(ctx, key).Val() {
				out.WriteString(f + "\n" + v + "\n")
			}
		case "list":
			out.WriteString(strings.Join(a.rdb.LRange(ctx, key, 0, -1).Val(), "\n"))
		case "zset":
			out.WriteString(strings.Join(a.rdb.ZRange(ctx, key, 0, -1).Val(), "\n"))
		case "set":
			out.WriteString(strings.Join(a.rdb.SMembers(ctx, key).Val(), "\n"))
		}
		out.WriteByte('\n')
	}
	require.NoError(a.t, all.Err())
	return out.Bytes()
}

// secrets returns the search for all that must not come to light.
func (a *aviary) secrets() *leaks {
	l := &leaks{}
	l.add("the canary", a.core)
	l.add("a key of batchd", strings.TrimPrefix(a.key, "batchd_")[:43])
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, secret := range a.allowed {
		l.add(fmt.Sprintf("webhook secret %d", i), strings.TrimRight(strings.TrimPrefix(secret, "whsec_"), "="))
	}
	for _, of := range []string{"authorization", "x-api-key", "token"} {
		for _, text := range []string{a.credential(of), "Bearer " + a.credential(of)} {
			l.addHashes("credential of "+of, text)
		}
	}
	return l
}

// A secret in credentials of all kinds goes through batches of all kinds, while processes are killed, and is
// found nowhere: not in Redis and its files, not in logs, metrics, errors, webhooks and arguments.
func TestNoCredentialComesToLight(t *testing.T) {
	scenario(t)
	a := newAviary(t)
	created := a.exec("keys", "create", "canary", "--config", a.settingsFile("keys"))
	a.key = strings.TrimSpace(created)
	require.Regexp(t, `^batchd_\w{49}$`, a.key)
	a.launch("api")
	a.launch("worker")
	victim := a.launch("worker")

	batches := scale(60, 1000)
	kinds := slices.Sorted(maps.Keys(a.kinds()))
	var next, done atomic.Int64
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			for n := int(next.Add(1)) - 1; n < batches; n = int(next.Add(1)) - 1 {
				kind := kinds[n%len(kinds)]
				a.kinds()[kind](n)
				a.mu.Lock()
				a.ended[kind]++
				a.mu.Unlock()
				done.Add(1)
			}
		})
	}
	kills := 0
	for every := int64(scale(25, 100)); ; {
		eventually(t, scale(2*time.Minute, 10*time.Minute), func() bool { return done.Load() >= min(every*int64(kills+1), int64(batches)) }, "%d batches: %v", done.Load(), a.ended)
		if done.Load() >= int64(batches) {
			break
		}
		a.inspect()
		victim.kill()
		victim = a.launch("worker")
		kills++
	}
	wg.Wait()
	require.Positive(t, kills)
	a.badCommands()
	a.inspect()
	// The runtime prints all stacks of a process that gets this signal.
	victim.told.Store(true)
	require.NoError(t, victim.cmd.Process.Signal(syscall.SIGQUIT))
	victim.exit(20 * time.Second)
	eventually(t, 20*time.Second, func() bool { return a.hooks.Load() > 0 }, "no webhook arrived")
	eventually(t, 5*time.Second, func() bool { return victim.contains("goroutine ") }, "no stacks")

	all := a.collect()
	all["the commands of clients to Redis"] = a.unmonitor()
	places := []string{
		"keys of Redis", "the AOF", "the RDB", "the slow log of Redis", "the commands of clients to Redis", "logs",
		"metrics", "errors", "headers of answers", "delivery logs", "webhooks", "arguments of processes", "output of commands",
	}
	require.ElementsMatch(t, places, slices.Collect(maps.Keys(all)))
	l := a.secrets()
	for place, text := range all {
		require.Greater(t, len(text), 100, place)
		l.in(place, text)
	}
	require.Empty(t, strings.Join(l.found, "\n"))
	figure(t, "canary: %d batches of %d kinds, %d kills, %d webhooks, %s", batches, len(kinds), kills, a.hooks.Load(), sizes(all))
}

func sizes(all map[string][]byte) string {
	var parts []string
	for place, text := range all {
		parts = append(parts, fmt.Sprintf("%s %d KiB", place, len(text)>>10))
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}

// exec runs the binary, and returns what it prints for programs.
func (a *aviary) exec(args ...string) string {
	a.t.Helper()
	cmd := exec.Command(binary, args...)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	a.keep("output of commands", said.Bytes())
	require.NoError(a.t, err, "%s", said.String())
	return string(out)
}

func (p *process) contains(text string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return bytes.Contains(p.log.Bytes(), []byte(text))
}

// Planted in each of the places, the secret is found there.
func TestTheSearchForSecretsFindsEachPlace(t *testing.T) {
	scenario(t)
	a := newAviary(t)
	a.key = "batchd_" + random(49)
	talk := listen(t, "127.0.0.1:0", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Said", r.URL.Query().Get("header"))
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, r.URL.Query().Get("body"))
	}))
	ctx := t.Context()
	for place, plant := range map[string]func(){
		"keys of Redis, their names": func() { require.NoError(t, a.rdb.Set(ctx, a.core, "x", 0).Err()) },
		"keys of Redis":              func() { require.NoError(t, a.rdb.HSet(ctx, "hash", "field", "x"+a.core+"x").Err()) },
		"the AOF":                    func() { require.NoError(t, a.rdb.RPush(ctx, "list", a.core).Err()) },
		"the RDB":                    func() { require.NoError(t, a.rdb.ZAdd(ctx, "zset", redis.Z{Member: a.core}).Err()) },
		"the slow log of Redis":      func() { require.NoError(t, a.rdb.Echo(ctx, a.core).Err()) },
		"the commands of clients to Redis": func() {
			require.NoError(t, a.rdb.Publish(ctx, "channel", a.core).Err())
		},
		"logs": func() {
			p := a.newProcess("logger", exec.Command("sh", "-c", "echo $0 >&2; exec sleep 1000", a.core))
			p.run()
			eventually(t, 20*time.Second, func() bool { return p.contains(a.core) }, "no log")
			a.processes = append(a.processes, p)
		},
		"arguments of processes": func() {
			p := a.newProcess("argument", exec.Command("sleep", "1000"))
			p.cmd.Args[0] = a.core
			p.run()
			a.inspectProcess(p)
		},
		"output of commands": func() { a.command(nil, "sh", "-c", "echo $0", a.core) },
		"metrics":            func() { a.scrape(talk + "/?body=" + a.core) },
		"errors":             func() { a.call(http.MethodGet, talk+"/?body="+a.core, nil) },
		"headers of answers": func() { a.call(http.MethodGet, talk+"/?header="+a.core, nil) },
		"delivery logs":      func() { a.deliveryLog(talk + "/?body=" + a.core) },
		"webhooks": func() {
			resp, err := http.Post(a.hook+"/ok", "application/json", strings.NewReader(a.core))
			require.NoError(t, err)
			_ = resp.Body.Close()
		},
	} {
		place, _, _ = strings.Cut(place, ",")
		require.NoError(t, a.rdb.FlushAll(ctx).Err())
		require.NoError(t, a.rdb.SlowLogReset(ctx).Err())
		a.places, a.processes = map[string]*bytes.Buffer{}, nil
		plant()
		all := a.collect()
		if place == "the commands of clients to Redis" {
			all[place] = a.unmonitor()
			a.monitor()
		}
		require.Positive(t, a.secrets().in(place, all[place]), "the secret was planted in %s: %q", place, all[place])
	}
}

// call makes a request, and keeps of the answer what must have no secret. It returns the whole answer.
func (a *aviary) call(method, url string, body []byte, headers ...string) (status int, header http.Header, answer []byte) {
	if strings.HasPrefix(url, "/") {
		url = "http://" + a.apiAddr + url
	}
	req, err := http.NewRequest(method, url, bytes.NewReader(body))
	if err != nil {
		a.t.Errorf("%s %s: %v", method, url, err)
		return 0, nil, nil
	}
	req.Header.Set("Content-Type", "application/json")
	for pair := range slices.Chunk(headers, 2) {
		req.Header.Set(pair[0], pair[1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		a.t.Errorf("%s: %v", method, err)
		return 0, nil, nil
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(resp.Body)
	if err != nil {
		a.t.Errorf("%s: %v", method, err)
	}
	a.keepHeader("headers of answers", resp.Header)
	if resp.StatusCode >= http.StatusBadRequest {
		a.keep("errors", answer)
	}
	return resp.StatusCode, resp.Header, answer
}

// serveHook receives webhooks, and keeps their heads and bodies. Their URLs, which have a secret, are the
// receiver's own.
func (a *aviary) serveHook(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	a.keepHeader("webhooks", r.Header)
	a.keep("webhooks", withoutAnswers(body))
	a.hooks.Add(1)
	switch {
	case strings.HasPrefix(r.URL.Path, "/broken"):
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = io.WriteString(w, a.core)
	case strings.HasPrefix(r.URL.Path, "/moved"):
		http.Redirect(w, r, "http://127.0.0.1:1/"+a.core, http.StatusFound)
	case strings.HasPrefix(r.URL.Path, "/garbage"):
		a.hijack(w, "HTTP/1.1 "+a.core+"\r\n\r\n")
	}
}

// withoutAnswers returns a webhook without what the target answered: its receiver is meant to have that.
func withoutAnswers(body []byte) []byte {
	var event, data map[string]json.RawMessage
	var results []map[string]json.RawMessage
	if json.Unmarshal(body, &event) != nil || json.Unmarshal(event["data"], &data) != nil || json.Unmarshal(data["results"], &results) != nil {
		return body
	}
	for _, r := range results {
		for name := range r {
			if name == "headers" || strings.HasPrefix(name, "body") {
				delete(r, name)
			}
		}
	}
	data["results"] = encoded(results)
	event["data"] = encoded(data)
	return encoded(event)
}

// serveTarget answers as the path says. Every answer repeats the credentials of its request.
func (a *aviary) serveTarget(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	said := fmt.Sprintf("%s %s %v %s", r.Method, r.URL, r.Header, body)
	way, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/api/"), "/")
	w.Header().Set("X-Said", strings.Join(r.Header.Values("Authorization"), ","))
	switch {
	case r.Method == http.MethodConnect:
		w.Header().Set("X-Said", r.Header.Get("Proxy-Authorization"))
		w.WriteHeader(http.StatusProxyAuthRequired)
	case way == "tx":
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]string{"id": "tx-1", "said": said})
	case way == "fails":
		http.Error(w, said, http.StatusInternalServerError)
	case way == "refuses":
		http.Error(w, said, http.StatusUnprocessableEntity)
	case way == "unauthorized":
		w.Header().Set("WWW-Authenticate", "Bearer "+a.core)
		http.Error(w, said, http.StatusUnauthorized)
	case way == "busy":
		w.Header().Set("Retry-After", a.core)
		http.Error(w, said, http.StatusTooManyRequests)
	case way == "moved":
		http.Redirect(w, r, "/elsewhere?"+a.core, http.StatusFound)
	case way == "drops":
		a.hijack(w, "")
	case way == "garbage":
		a.hijack(w, a.core+" "+said)
	case way == "line":
		a.hijack(w, "HTTP/1.1 2"+a.core+" OK\r\n\r\n")
	case way == "header":
		a.hijack(w, "HTTP/1.1 200 OK\r\n"+a.core+" x: "+a.core+"\r\n\r\n")
	case way == "length":
		a.hijack(w, "HTTP/1.1 200 OK\r\nContent-Length: "+a.core+"\r\n\r\n")
	case way == "coding":
		a.hijack(w, "HTTP/1.1 200 OK\r\nTransfer-Encoding: "+a.core+"\r\n\r\n")
	case way == "chunk":
		a.hijack(w, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"+a.core+"\r\n")
	case way == "short":
		a.hijack(w, "HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n"+said)
	case way == "more":
		a.hijack(w, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nX: "+a.core+"\r\n\r\n")
	case way == "gzip":
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = io.WriteString(w, said)
	case way == "holds":
		select {
		case <-r.Context().Done():
		case <-time.After(time.Second):
		}
	default:
		_, _ = io.WriteString(w, said)
	}
}

// hijack writes bytes in place of an answer, and closes the connection.
func (a *aviary) hijack(w http.ResponseWriter, text string) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		a.t.Errorf("hijack: %v", err)
		return
	}
	defer conn.Close()
	writer := bufio.NewWriter(buffered)
	_, _ = writer.WriteString(text)
	_ = writer.Flush()
	_ = buffered.Flush()
}

func writeFile(name, text string) error {
	return os.WriteFile(name, []byte(text), 0o600) //nolint:wrapcheck // the caller reports it
}
