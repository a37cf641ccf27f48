package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/api/auth"
	"github.com/batchd/batchd/internal/batch"
)

// bodies are requests of all forms, each with a body that can be cut.
func bodies(t *testing.T) map[string]call {
	t.Helper()
	lines := strings.Repeat(`{"method":"POST","path":"/a","body":"`+strings.Repeat("x", 100)+`"}`+"\n", 2000)
	document := `{"target":"crm","actions":[` + strings.ReplaceAll(strings.TrimSuffix(lines, "\n"), "\n", ",") + `]}`
	calls := map[string]call{
		"JSON":   {path: "/batch", headers: []string{"Content-Type: application/json"}, body: document},
		"NDJSON": {path: "/batch?target=crm", headers: []string{"Content-Type: application/x-ndjson"}, body: lines},
	}
	for _, d := range foreigners() {
		c := d.call()
		c.headers = append(c.headers, "Content-Type: application/json")
		c.body += strings.Repeat(" ", 200_000)
		calls["in the dialect of "+d.path] = c
	}
	for name, c := range maps.Clone(calls) {
		calls[name+", gzip"] = packed(c, "gzip", gzipped(t, c.body))
		calls[name+", zstd"] = packed(c, "zstd", zstded(t, c.body))
	}
	return calls
}

func packed(c call, coding string, body []byte) call {
	c.headers = append(append([]string{}, c.headers...), "Content-Encoding: "+coding)
	c.body = string(body)
	return c
}

// many lets a body be any number of times larger than its compressed form.
func many(c *Config) { c.Limits.Capacity.BodyRatio = 1_000_000 }

// broken is a body that ends with an error, or with a hang-up of the client.
type broken struct {
	io.Reader
	err    error
	hangUp func()
}

func (b *broken) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if errors.Is(err, io.EOF) && b.err != nil {
		b.hangUp()
		err = b.err
	}
	return n, err
}

func (*broken) Close() error { return nil }

func TestAllBodiesGiveTheirMemoryBack(t *testing.T) {
	t.Parallel()
	f := setup(t, endpoints, many)
	f.store.run = func(int, *batch.Action) *batch.Result { return succeeded("1") }
	for name, c := range bodies(t) {
		for seed := range uint64(20) {
			random := rand.New(rand.NewPCG(seed, 1))
			text := []byte(c.body)
			ctx, hangUp := context.WithCancel(t.Context())
			body := &broken{hangUp: func() {}}
			switch seed % 5 {
			case 0: // whole
			case 1:
				text = text[:random.IntN(len(text))]
			case 2:
				text[random.IntN(len(text))] ^= 0x55
			case 3:
				text, body.err = text[:random.IntN(len(text))], io.ErrUnexpectedEOF
			case 4:
				text, body.err, body.hangUp = text[:random.IntN(len(text))], context.Canceled, hangUp
			}
			body.Reader = bytes.NewReader(text)
			if seed%3 == 2 {
				f.store.setDown(&batch.UnavailableError{})
			}
			r := c.request(t).WithContext(ctx)
			r.Method, r.Body, r.ContentLength = http.MethodPost, body, -1
			serve(f, r)
			hangUp()
			f.store.setDown(nil)
			require.Zero(t, f.memory.inUse(), "%s, seed %d", name, seed)
			require.Empty(t, f.memory.owners)
		}
	}
	require.Positive(t, f.store.holds())
}

// A panic, too, releases what the request held.
func TestAPanicGivesMemoryBack(t *testing.T) {
	t.Parallel()
	f := setup(t)
	body := &broken{Reader: strings.NewReader(two[:40]), err: io.ErrUnexpectedEOF, hangUp: func() { panic("a fault in a reader") }}
	r := httptest.NewRequest(http.MethodPost, "/batch", body)
	r.Header.Set("Content-Type", mediaJSON)
	require.Equal(t, http.StatusInternalServerError, serve(f, r).Code)
	require.Zero(t, f.memory.inUse())
}

// reading starts a request whose body does not end, and returns when the server has read
// what there is of it. The function ends the body and waits for the answer.
func (f *fixture) reading(t *testing.T, c call) func() *httptest.ResponseRecorder {
	t.Helper()
	in, out := io.Pipe()
	r := c.request(t)
	r.Method, r.Body, r.ContentLength = http.MethodPost, in, -1
	answer := make(chan *httptest.ResponseRecorder, 1)
	go func() {
		answer <- serve(f, r)
		_ = in.Close()
	}()
	_, _ = io.WriteString(out, c.body) // until the server has read it, or has refused it
	return func() *httptest.ResponseRecorder {
		_ = out.Close()
		return <-answer
	}
}

// unfinished is a submission in NDJSON whose first line does not end.
func unfinished(bytes int) call {
	return call{
		path: "/batch?target=crm", headers: []string{"Content-Type: application/x-ndjson", "Authorization: Bearer a"},
		body: `{"method":"POST","path":"/","body":"` + strings.Repeat("x", bytes),
	}
}

func TestBodiesShareOneBudget(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]call{
		"NDJSON": unfinished(1 << 20),
		"JSON":   {path: "/batch", headers: []string{"Content-Type: application/json"}, body: `{"target":"crm","actions":[{"body":"` + strings.Repeat("x", 1<<20)},
		"in a dialect": {
			path: "/api/batch", headers: []string{"Content-Type: application/json", "Authorization: Bearer a"},
			body: `{"requests":[{"body":"` + strings.Repeat("x", 3<<20),
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t, endpoints, func(c *Config) { c.Limits.Capacity.BodyMemory = 20 << 20 })
			var ends []func() *httptest.ResponseRecorder
			for range 20 {
				ends = append(ends, f.reading(t, c))
				require.LessOrEqual(t, f.memory.inUse(), int64(20<<20))
			}
			require.Greater(t, f.memory.inUse(), int64(5<<20))
			small := f.reading(t, call{path: "/batch", headers: []string{"Content-Type: application/json"}, body: two})
			codes := map[int]int{}
			for _, end := range ends {
				w := end()
				codes[w.Code]++
				if w.Code != http.StatusBadRequest {
					require.Equal(t, "1", w.Header().Get("Retry-After"))
					p := requireProblem(t, w, http.StatusServiceUnavailable)
					require.Equal(t, "urn:problem-type:batchd:busy", p.Type)
				}
			}
			require.Positive(t, codes[http.StatusBadRequest], "those for which there was room, as they have no end")
			require.Greater(t, codes[http.StatusServiceUnavailable], 10)
			require.Equal(t, http.StatusAccepted, small().Code, "a small body has room beside them")
			require.Zero(t, f.memory.inUse())
			require.Equal(t, 1, f.store.holds())
			require.Equal(t, http.StatusBadRequest, f.reading(t, c)().Code, "there is room again")
		})
	}
}

func TestOneOwnerMayHoldHalfOfTheBudget(t *testing.T) {
	t.Parallel()
	f := setup(t, endpoints, func(c *Config) {
		c.Auth.Modes, c.Limits.Capacity.BodyMemory = []auth.Mode{auth.ModePassthrough}, 20<<20
		c.Owner = func(_ context.Context, credential string) (string, error) { return credential, nil }
	})
	var ends []func() *httptest.ResponseRecorder
	for range 5 {
		ends = append(ends, f.reading(t, unfinished(1<<20)))
	}
	require.LessOrEqual(t, f.memory.inUse(), int64(10<<20))
	other := unfinished(256 << 10) // from the same address, which may hold three quarters
	other.headers[1] = "Authorization: Bearer b"
	require.Equal(t, http.StatusBadRequest, f.reading(t, other)().Code, "the other owner has the other half")
	limited := 0
	for _, end := range ends {
		if w := end(); w.Code == http.StatusTooManyRequests {
			limited++
			require.Equal(t, "1", w.Header().Get("Retry-After"))
		}
	}
	require.Positive(t, limited)
	require.Zero(t, f.memory.inUse())
}

// A body that could never be read is not worth another try.
func TestABodyLargerThanTheBudgetIsTooLarge(t *testing.T) {
	t.Parallel()
	f := setup(t, endpoints, func(c *Config) { c.Limits.Capacity.BodyMemory = 5 << 20 })
	w := f.reading(t, unfinished(4<<20))()
	p := requireProblem(t, w, http.StatusRequestEntityTooLarge)
	require.Contains(t, p.Detail, "limits.body_memory")
	require.Empty(t, w.Header().Get("Retry-After"))
}

// A client that waits for the end of its batch has no body in memory.
func TestARequestThatWaitsHoldsNoMemory(t *testing.T) {
	t.Parallel()
	for name, c := range bodies(t) {
		synctest.Test(t, func(t *testing.T) {
			f := setup(t, endpoints, many)
			r := c.request(t)
			r.Method = http.MethodPost
			r.Header.Set("Prefer", "wait=5")
			done := make(chan int, 1)
			go func() { done <- serve(f, r).Code }()
			synctest.Wait()
			require.Equal(t, 1, f.store.watching(), name)
			require.Zero(t, f.memory.inUse(), name)
			<-done
		})
	}
}

// The window of a zstd frame is memory, whether it is the first frame of a body or a later
// one.
func TestTheWindowOfZstdIsCounted(t *testing.T) {
	t.Parallel()
	frame := func(window int, text string) string {
		var out bytes.Buffer
		z, err := zstd.NewWriter(&out, zstd.WithWindowSize(window), zstd.WithEncoderConcurrency(1))
		require.NoError(t, err)
		_, err = io.WriteString(z, text[:len(text)/2])
		require.NoError(t, err)
		require.NoError(t, z.Flush()) // otherwise the frame is one segment
		_, err = io.WriteString(z, text[len(text)/2:])
		require.NoError(t, err)
		require.NoError(t, z.Close())
		return out.String()
	}
	skipped := "\x50\x2a\x4d\x18\x03\x00\x00\x00abc"
	headers := []string{"Content-Type: application/json", "Content-Encoding: zstd"}
	large := frame(8<<20, two)
	small := frame(1<<20, two[:20]) + skipped + frame(1<<10, two[20:])
	later := frame(1<<20, two[:20]) + skipped + frame(8<<20, two[20:])
	f := setup(t, func(c *Config) { c.Limits.Capacity.BodyMemory = 4 << 20 })
	for text, status := range map[string]int{large: http.StatusRequestEntityTooLarge, later: http.StatusRequestEntityTooLarge, small: http.StatusAccepted} {
		w := serve(f, call{method: http.MethodPost, path: "/batch", headers: headers, body: text}.request(t))
		require.Equal(t, status, w.Code, "%s", w.Body)
		require.Zero(t, f.memory.inUse())
	}
}

// The reader of frames finds the windows of all frames, however their bytes arrive.
func TestFramesAreFoundInAnyPieces(t *testing.T) {
	t.Parallel()
	var text bytes.Buffer
	var want []int64
	for i := range 6 {
		window := 1 << (10 + i)
		z, err := zstd.NewWriter(&text, zstd.WithWindowSize(window), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(i%2 == 0), zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(1+3*(i%4))))
		require.NoError(t, err)
		for range 3 {
			_, err = z.Write(bytes.Repeat([]byte(fmt.Sprint(rand.N(1<<30))), 5000))
			require.NoError(t, err)
			require.NoError(t, z.Flush())
		}
		require.NoError(t, z.Close())
		want = append(want, int64(window))
	}
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 2))
		var found []int64
		f := &frames{window: func(bytes int64) error { found = append(found, bytes); return nil }}
		for rest := text.Bytes(); len(rest) > 0; {
			n := 1 + random.IntN(min(len(rest), 1<<random.IntN(16)))
			require.NoError(t, f.scan(rest[:n]))
			rest = rest[n:]
		}
		require.Equal(t, want, found)
		require.False(t, f.inFrame || f.lost)
	}
}

func TestABodyThatUnfoldsTooFarIsRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []call{
		{path: "/batch", headers: []string{"Content-Type: application/json"}, body: `{"target":"crm","actions":[`},
		{path: "/batch?target=crm", headers: []string{"Content-Type: application/x-ndjson"}, body: "\n"},
		{path: "/api/batch", headers: []string{"Content-Type: application/json"}, body: `{"requests":[`},
	} {
		for coding, compress := range map[string]func(*testing.T, string) []byte{"gzip": gzipped, "zstd": zstded} {
			f := setup(t, endpoints)
			text := c.body + strings.Repeat(" ", 20<<20)
			r := packed(c, coding, compress(t, text)).request(t)
			r.Method = http.MethodPost
			p := requireProblem(t, serve(f, r), http.StatusRequestEntityTooLarge)
			require.Contains(t, p.Detail, "100 times")
			require.Zero(t, f.memory.inUse())
		}
	}
	// What is small may be any number of times larger than its compressed form.
	f := setup(t)
	alike := actions(1900)
	for coding, compress := range map[string]func(*testing.T, string) []byte{"gzip": gzipped, "zstd": zstded} {
		c := packed(call{method: http.MethodPost, path: "/batch", headers: []string{"Content-Type: application/json"}}, coding, compress(t, alike))
		require.Less(t, 100*len(c.body), len(alike))
		require.Equal(t, http.StatusAccepted, serve(f, c.request(t)).Code)
	}
}

// An owner that holds its share is told so; the others are told that the server is busy.
func TestAnswersBeyondAShareAreTheOwnersOwn(t *testing.T) {
	t.Parallel()
	m := newMemory(1 << 20)
	kindOf := func(r *reservation, err error) string {
		t.Helper()
		refused, ok := errors.AsType[*requestError](err)
		require.True(t, ok, "%v", err)
		require.Zero(t, r.held)
		return refused.kind.slug
	}
	for range 2 {
		require.NoError(t, m.reserve("alice", netip.Prefix{}).answer(256<<10))
	}
	r := m.reserve("alice", netip.Prefix{})
	require.Equal(t, kindLimited.slug, kindOf(r, r.answer(256<<10)))
	for range 2 {
		require.NoError(t, m.reserve("bob", netip.Prefix{}).answer(256<<10))
	}
	r = m.reserve("carol", netip.Prefix{})
	require.Equal(t, kindBusy.slug, kindOf(r, r.answer(256<<10)))
}

// A client that never sends its credential counts for its address, and keeps no other client out.
func TestUnfinishedBodiesThatMayHaveACredentialCountForTheirAddress(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setup(t, endpoints, passthrough, func(c *Config) {
			p := &c.Limits.Capacity
			p.WaitsPerOwner, p.BodyMemory = 2, 1<<20
		})
		f.store.run = func(int, *batch.Action) *batch.Result { return succeeded("1") }
		c := call{
			method: "POST", path: "/v1.1/instances/i/batch/", headers: []string{"Content-Type: text/plain"},
			body: `{"_api_key":"alice","requests":[{"method":"GET","path":"/v1.1/instances/i/a/"}]` + strings.Repeat(" ", 60<<10) + "}",
		}
		from := func(address string, body io.Reader) int {
			r := c.request(t)
			r.RemoteAddr = address
			if body != nil {
				r.Body, r.ContentLength = io.NopCloser(body), -1
			}
			return serve(f, r).Code
		}
		var hangUps []io.Closer
		statuses := make(chan int, 20)
		for range cap(statuses) {
			body, client := io.Pipe()
			hangUps = append(hangUps, client)
			go func() { statuses <- from("127.0.0.1:1000", body) }()
			go func() { _, _ = client.Write(bytes.Repeat([]byte(" "), 60<<10)) }()
		}
		synctest.Wait()
		require.Zero(t, f.waits.used, "a request without an owner does not wait yet")
		require.Equal(t, http.StatusTooManyRequests, from("127.0.0.1:1000", nil), "the address uses all of its memory")
		require.Equal(t, http.StatusOK, from("127.0.0.2:1000", nil))
		for _, client := range hangUps {
			require.NoError(t, client.Close())
		}
		refused := 0
		for range cap(statuses) {
			if <-statuses == http.StatusTooManyRequests {
				refused++
			}
		}
		require.Positive(t, refused)
		require.Equal(t, http.StatusOK, from("127.0.0.1:1000", nil), "there is room again")
		require.Zero(t, f.memory.inUse())
		require.Empty(t, f.memory.owners)
		require.Empty(t, f.waits.owners)
	})
}

// Each of those who send the credential in the body waits as an owner of its own.
func TestAWaitCountsForTheCredentialInTheBody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setup(t, endpoints, passthrough, func(c *Config) { c.Limits.Capacity.WaitsPerOwner = 1 })
		ask := func(name string) int {
			return serve(f, call{
				method: "POST", path: "/v1.1/instances/i/batch/", headers: []string{"Content-Type: text/plain"},
				body: `{"_api_key":"` + name + `","requests":[{"method":"GET","path":"/v1.1/instances/i/a/"}]}`,
			}.request(t)).Code
		}
		done := make(chan int, 2)
		for _, name := range []string{"alice", "bob"} {
			go func() { done <- ask(name) }()
		}
		synctest.Wait()
		require.Equal(t, 2, f.waits.used)
		held := f.store.holds()
		require.Equal(t, http.StatusTooManyRequests, ask("alice"))
		require.Equal(t, held, f.store.holds(), "nothing was stored")
		f.drain()
		require.Equal(t, http.StatusOK, <-done)
		require.Equal(t, http.StatusOK, <-done)
		require.Empty(t, f.waits.owners)
	})
}
