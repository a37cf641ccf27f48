package api

import (
	"context"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/api/auth"
)

// reads returns how often batches were read.
func (s *fakeStore) reads() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gets
}

func TestRequestsThatFollowABatchShareItsReads(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setup(t)
		id := f.created(t, call{body: two})
		var streams []func() []event
		for range 100 {
			seen, _ := f.watch(t, id)
			streams = append(streams, seen)
		}
		waits := make(chan int, 50)
		for range 50 {
			go func() {
				waits <- serve(f, call{method: "GET", path: "/batch/" + id, headers: []string{"Prefer: wait=60"}}.request(t)).Code
			}()
		}
		synctest.Wait()
		require.Equal(t, 1, f.store.watching())
		before := f.store.reads()
		time.Sleep(10 * time.Second)
		require.LessOrEqual(t, f.store.reads()-before, 10*4+1)
		f.store.finish(id, 0, succeeded("1"))
		time.Sleep(time.Second)
		for _, seen := range streams {
			require.Len(t, seen(), 2, "all streams saw the change")
		}
		before = f.store.reads()
		f.store.finish(id, 1, succeeded("2"))
		for range 50 {
			require.Equal(t, http.StatusOK, <-waits)
		}
		for _, seen := range streams {
			require.Equal(t, "end", seen()[2].name)
		}
		require.LessOrEqual(t, f.store.reads()-before, 2)
		require.Zero(t, f.store.watching())
		require.Empty(t, f.polls.byBatch)
	})
}

// Streams that begin while others run need no read of their own.
func TestAStreamBeginsWithARecentRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setup(t)
		id := f.created(t, call{body: two})
		first, done := f.watch(t, id)
		require.Len(t, first(), 1)
		before := f.store.reads()
		for range 99 {
			seen, _ := f.watch(t, id)
			require.Len(t, seen(), 1)
		}
		require.Equal(t, before, f.store.reads())
		f.drain()
		<-done
	})
}

// Requests share no read with another owner.
func TestAnotherOwnersStreamIsNotShared(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setup(t, func(c *Config) {
			c.Auth.Modes = []auth.Mode{auth.ModePassthrough}
			c.Owner = func(_ context.Context, credential string) (string, error) { return credential, nil }
		})
		id := f.created(t, call{body: two, headers: []string{"Authorization: Bearer a"}})
		seen, done := f.watch(t, id, "Authorization: Bearer a")
		require.Len(t, seen(), 1)
		for _, headers := range [][]string{{"Authorization: Bearer b"}, {"Authorization: Bearer b", "Prefer: wait=5"}} {
			path := "/batch/" + id
			if len(headers) == 1 {
				path += "/events"
			}
			require.Equal(t, http.StatusNotFound, serve(f, call{method: "GET", path: path, headers: headers}.request(t)).Code)
		}
		f.drain()
		<-done
	})
}

func TestStreamsAndWaitsAreBounded(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		limits func(*Capacity)
		status int
	}{
		"per owner":      {func(p *Capacity) { p.StreamsPerOwner, p.WaitsPerOwner = 2, 2 }, http.StatusTooManyRequests},
		"in the process": {func(p *Capacity) { p.Streams, p.Waits = 2, 2 }, http.StatusServiceUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := setup(t, endpoints, func(c *Config) { row.limits(&c.Limits.Capacity) })
				id := f.created(t, call{body: two})
				held := f.store.holds()
				done := make(chan struct{}, 4)
				for _, c := range []call{{method: "GET", path: "/batch/" + id + "/events"}, {method: "GET", path: "/batch/" + id, headers: []string{"Prefer: wait=9"}}} {
					for range 2 {
						go func() {
							serve(f, c.request(t))
							done <- struct{}{}
						}()
					}
				}
				synctest.Wait()
				for _, c := range []call{
					{method: "GET", path: "/batch/" + id + "/events"},
					{method: "GET", path: "/batch/" + id, headers: []string{"Prefer: wait=9"}},
					{method: "POST", path: "/batch", body: two, headers: []string{"Prefer: wait=9"}},
				} {
					w := f.do(t, c)
					requireProblem(t, w, row.status)
					require.Equal(t, "1", w.Header().Get("Retry-After"))
				}
				for name, d := range foreigners() {
					require.Equal(t, row.status, serve(f, d.call().request(t)).Code, name)
				}
				require.Equal(t, held, f.store.holds(), "nothing was stored")
				require.Equal(t, http.StatusOK, f.do(t, call{method: "GET", path: "/batch/" + id}).Code, "who does not wait is served")
				f.drain()
				for range 4 {
					<-done
				}
				require.Zero(t, f.streams.used+f.waits.used)
				require.Empty(t, f.streams.owners)
				require.Empty(t, f.waits.owners)
			})
		})
	}
}
