//go:build unix

package dispatch

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

const empty = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

// sayEmpty answers each request with nothing.
func sayEmpty(w *wire) {
	for w.request() != nil {
		w.say(empty)
	}
}

// carrierOf returns what carries a dispatcher's exchanges, or skips the test where it
// is the transport's turn.
func carrierOf(t *testing.T, d *Dispatcher) *plainCarrier {
	t.Helper()
	if transportOnly {
		t.Skip("the transport does it its own way")
	}
	return d.targets["crm"].carrier.(*plainCarrier)
}

func (d *plainCarrier) idlers() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.idle.total
}

// age lets all idle connections have been idle for that long.
func (d *plainCarrier) age(since time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for e := d.idle.keys.Front(); e != nil; e = e.Next() {
		for _, c := range e.Value.(*keyConns).conns {
			c.since = time.Now().Add(-since)
		}
	}
}

func TestTheSettingHTTPClientSelectsTheCarrier(t *testing.T) {
	t.Parallel()
	for client, want := range map[string]carrier{"": &plainCarrier{}, batch.HTTPClientAuto: &plainCarrier{}, batch.HTTPClientStandard: &standardCarrier{}} {
		d, err := New(Config{Targets: []batch.Target{{Name: "crm", BaseURL: "http://127.0.0.1:9000", HTTPClient: client}}})
		require.NoError(t, err)
		t.Cleanup(d.Close)
		require.IsType(t, want, d.targets["crm"].carrier, client)
	}
}

func TestTargetsThatThePlainCarrierReaches(t *testing.T) {
	t.Parallel()
	for base, want := range map[string]bool{
		"http://h": true, "http://h:81/v1": true, "http://127.0.0.1": true, "http://[::1]:81": true,
		"https://h": false, "http://bücher.example": false, "http://[fe80::1%25eth0]:81": false,
	} {
		u, err := url.Parse(base)
		require.NoError(t, err)
		require.Equal(t, want, isPlain(u, &batch.Target{}), base)
		require.False(t, isPlain(u, &batch.Target{Proxy: "http://proxy"}), base)
	}
	u, err := url.Parse("http://h/v1")
	require.NoError(t, err)
	require.Equal(t, "h:80", hostPort(u))
}

func TestAConnectionThatTheTargetClosedIsNotUsed(t *testing.T) {
	t.Parallel()
	for name, last := range map[string]func(w *wire){
		"closed":      func(*wire) {},
		"reset":       func(w *wire) { w.reset() },
		"said a word": func(w *wire) { w.say("HTTP/1.1 408 Request Timeout\r\n\r\n") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			gone := make(chan struct{})
			target := newRawTarget(t, func(w *wire) {
				w.request()
				w.say(empty)
				if w.number > 1 {
					w.untilGone()
					return
				}
				last(w)
				_ = w.Close()
				close(gone)
			})
			d := newDispatcher(t, batch.Target{BaseURL: target.url})
			carrierOf(t, d)
			require.Equal(t, 200, do(t, d, batch.Action{Method: "POST"}).Result.Status)
			<-gone
			require.Equal(t, 200, do(t, d, batch.Action{Method: "POST"}).Result.Status, "what was not sent goes over another one")
			require.EqualValues(t, 2, target.requests.Load())
			require.EqualValues(t, 2, target.conns.Load())
		})
	}
}

func TestATargetThatClosesBeforeTheRequestWasSentNothing(t *testing.T) {
	t.Parallel()
	target := newRawTarget(t, func(*wire) {})
	d := newDispatcher(t, batch.Target{BaseURL: target.url})
	carrierOf(t, d)
	for target.conns.Load() < 20 { // whether it is seen before the request is written is a matter of luck
		resp := do(t, d, batch.Action{Method: "POST"})
		require.NotNil(t, resp.Result.Error)
		if resp.Unsent {
			requireErrored(t, resp, batch.Errored, batch.CodeRefused)
			require.True(t, resp.Repeat)
		} else {
			requireErrored(t, resp, batch.Unknown, batch.CodeReset)
		}
	}
}

func TestALargeRequestIsSentWhole(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1, bodyAlong, bodyAlong + 1, 1 << 20, 8 << 20} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			body := bytes.Repeat([]byte("0123456789abcdef"), size/16+1)[:size]
			got := make(chan []byte, 2)
			target := newRawTarget(t, func(w *wire) {
				for range 2 {
					time.Sleep(20 * time.Millisecond) // what fits into the buffers on the way is there
					length := len("POST / HTTP/1.1\r\n")
					head := make([]byte, length)
					if _, err := io.ReadFull(w.in, head); err != nil {
						return
					}
					for line := ""; line != "\r\n"; {
						line, _ = w.in.ReadString('\n')
					}
					read := make([]byte, size)
					_, _ = io.ReadFull(w.in, read)
					got <- read
					w.say(empty)
				}
				w.untilGone()
			})
			d := newDispatcher(t, batch.Target{BaseURL: target.url})
			c := carrierOf(t, d)
			for range 2 {
				require.Equal(t, 200, do(t, d, batch.Action{Method: "POST", Body: body}).Result.Status)
				require.True(t, bytes.Equal(body, <-got))
				require.Equal(t, 1, c.idlers())
			}
			require.EqualValues(t, 1, target.conns.Load(), "the connection was used again")
		})
	}
}

func TestALargeRequestThatIsRefusedHasItsAnswer(t *testing.T) {
	t.Parallel()
	target := newRawTarget(t, func(w *wire) {
		_, _ = w.in.ReadString('\n')
		w.say("HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nno.")
		<-t.Context().Done()
	})
	d := newDispatcher(t, batch.Target{BaseURL: target.url, Concurrency: 1})
	c := carrierOf(t, d)
	for range 2 {
		resp := do(t, d, batch.Action{Method: "POST", Body: make([]byte, 16<<20)})
		require.Nil(t, resp.Result.Error)
		require.Equal(t, 413, resp.Result.Status)
		require.Zero(t, c.idlers(), "half a request is on it")
	}
}

func TestAConnectionWithMoreThanTheAnswerIsNotKept(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{
		"more":     empty + "more",
		"closing":  "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
		"HTTP/1.0": "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
	} {
		target := newRawTarget(t, func(w *wire) {
			w.request()
			w.say(answer)
			w.untilGone()
		})
		d := newDispatcher(t, batch.Target{BaseURL: target.url})
		c := carrierOf(t, d)
		require.Equal(t, 200, do(t, d, batch.Action{}).Result.Status, name)
		require.Zero(t, c.idlers(), name)
	}
}

func TestAnExchangeThatIsBrokenOffFreesItsPlace(t *testing.T) {
	t.Parallel()
	target := newRawTarget(t, func(w *wire) {
		for w.request() != nil {
			if w.number < 3 {
				w.say("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
				w.untilGone()
				return
			}
			w.say(empty)
		}
	})
	d := newDispatcher(t, batch.Target{BaseURL: target.url, Concurrency: 1})
	c := carrierOf(t, d)
	for range 2 {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		resp := d.Do(ctx, &batch.Request{Target: "crm", Action: &batch.Action{Method: "GET", Path: "/"}})
		cancel()
		requireErrored(t, resp, batch.Errored, batch.CodeInterrupted)
		require.Zero(t, c.idlers())
	}
	require.Equal(t, 200, do(t, d, batch.Action{}).Result.Status)
	require.Equal(t, 1, c.idlers())
}

func TestIdleConnectionsAreClosed(t *testing.T) {
	t.Parallel()
	gone := make(chan struct{}, 3)
	target := newRawTarget(t, func(w *wire) {
		for w.request() != nil {
			w.say(empty)
		}
		gone <- struct{}{}
	})
	d := newDispatcher(t, batch.Target{BaseURL: target.url})
	c := carrierOf(t, d)
	use := func() { require.Equal(t, 200, do(t, d, batch.Action{}).Result.Status) }
	use()
	c.reap()
	require.Equal(t, 1, c.idlers(), "it is not idle for long")
	require.NotNil(t, c.reaper, "it is looked at again")
	c.age(idleTimeout)
	c.reap()
	<-gone
	require.Zero(t, c.idlers())
	require.Nil(t, c.reaper)
	use()
	d.Close()
	<-gone
	use()
	<-gone // what comes back after the end is not kept
}

func TestNothingIsSentOnceTheContextHasEnded(t *testing.T) {
	t.Parallel()
	target := newRawTarget(t, sayEmpty)
	d := newDispatcher(t, batch.Target{BaseURL: target.url})
	require.Equal(t, 200, do(t, d, batch.Action{}).Result.Status)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 100 {
		resp := d.Do(ctx, &batch.Request{Target: "crm", Action: &batch.Action{Method: "POST", Path: "/"}})
		requireErrored(t, resp, batch.Errored, batch.CodeInterrupted)
		require.True(t, resp.Unsent)
	}
	require.EqualValues(t, 1, target.requests.Load())
	require.Equal(t, 200, do(t, d, batch.Action{}).Result.Status)
	require.EqualValues(t, 1, target.conns.Load(), "the connection is still good")
}

// watched counts those who are to be told of its end.
type watched struct {
	context.Context

	now, ever atomic.Int64
}

func (w *watched) AfterFunc(f func()) func() bool {
	w.now.Add(1)
	w.ever.Add(1)
	stop := context.AfterFunc(w.Context, f)
	return sync.OnceValue(func() bool {
		w.now.Add(-1)
		return stop()
	})
}

// Value hides what the context is made of, so that it is asked.
func (w *watched) Value(any) any { return nil }

func TestAConnectionWatchesTheContextOfItsExchanges(t *testing.T) {
	t.Parallel()
	target := newRawTarget(t, sayEmpty)
	d := newDispatcher(t, batch.Target{BaseURL: target.url})
	c := carrierOf(t, d)
	use := func(ctx context.Context) {
		require.Equal(t, 200, d.Do(ctx, &batch.Request{Target: "crm", Action: &batch.Action{Method: "GET", Path: "/"}}).Result.Status)
	}
	first, second := &watched{Context: t.Context()}, &watched{Context: t.Context()}
	for range 20 {
		use(first)
	}
	require.EqualValues(t, 1, first.ever.Load(), "once for all exchanges")
	require.EqualValues(t, 1, first.now.Load())
	use(second)
	require.Zero(t, first.now.Load())
	require.EqualValues(t, 1, second.now.Load())
	require.EqualValues(t, 1, target.conns.Load())
	c.age(idleTimeout)
	c.reap()
	require.Zero(t, second.now.Load(), "nothing is kept of a connection that is closed")
}

func TestAConnectionThatMayBeInterruptedIsNotUsed(t *testing.T) {
	t.Parallel()
	target := newRawTarget(t, sayEmpty)
	d := newDispatcher(t, batch.Target{BaseURL: target.url})
	_ = carrierOf(t, d)
	for n := range 20 {
		ctx, cancel := context.WithCancel(t.Context())
		require.Equal(t, 200, d.Do(ctx, &batch.Request{Target: "crm", Action: &batch.Action{Method: "GET", Path: "/"}}).Result.Status)
		cancel()
		resp := do(t, d, batch.Action{Method: "POST"})
		require.Equal(t, 200, resp.Result.Status, "%+v", resp.Result.Error)
		require.EqualValues(t, n+2, target.conns.Load())
	}
}

// blind is a context whose end is not seen at first.
type blind struct {
	context.Context

	looks atomic.Int64
}

func (b *blind) Err() error {
	if b.looks.Add(-1) >= 0 {
		return nil
	}
	return b.Context.Err()
}

func TestAContextThatEndsJustNowIsSeen(t *testing.T) {
	t.Parallel()
	target := newRawTarget(t, sayEmpty)
	d := newDispatcher(t, batch.Target{BaseURL: target.url})
	_ = carrierOf(t, d)
	parent, cancel := context.WithCancel(t.Context())
	ctx := &blind{Context: parent}
	send := func() *batch.Response {
		return d.Do(ctx, &batch.Request{Target: "crm", Action: &batch.Action{Method: "POST", Path: "/"}})
	}
	require.Equal(t, 200, send().Result.Status)
	cancel()
	time.Sleep(50 * time.Millisecond) // the connection is interrupted, before it has another deadline
	ctx.looks.Store(1)
	resp := send()
	requireErrored(t, resp, batch.Errored, batch.CodeInterrupted)
	require.True(t, resp.Unsent)
	require.EqualValues(t, 1, target.requests.Load())
}

func TestTimeIsKeptWithoutOpenConnections(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	target := newRawTarget(t, func(w *wire) {
		for w.request() != nil {
			<-release
			w.say(empty)
		}
	})
	d := newDispatcher(t, batch.Target{BaseURL: target.url, Concurrency: 1})
	var done sync.WaitGroup
	done.Go(func() { do(t, d, batch.Action{}) })
	require.Eventually(t, func() bool { return target.requests.Load() == 1 }, 30*time.Second, time.Millisecond)
	resp := do(t, d, batch.Action{Method: "POST", Timeout: 50 * time.Millisecond})
	requireErrored(t, resp, batch.Errored, batch.CodeTimeout)
	require.Contains(t, resp.Result.Error.Message, "none of its 1 connections came free within 50ms")
	require.True(t, resp.Unsent)
	require.Less(t, resp.Result.Duration, 5*time.Second)
	close(release)
	done.Wait()
	require.Equal(t, 200, do(t, d, batch.Action{Timeout: 5 * time.Second}).Result.Status)
}
