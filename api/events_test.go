package api

import (
	"context"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/api/auth"
	"github.com/batchd/batchd/internal/batch"
)

// event is one server-sent event; a comment has only text.
type event struct {
	name, id, data, comment string
}

func parseEvents(t *testing.T, stream string) []event {
	t.Helper()
	var events []event
	require.True(t, strings.HasSuffix(stream, "\n\n"), "the last event is whole")
	for block := range strings.SplitSeq(strings.TrimSuffix(stream, "\n\n"), "\n\n") {
		var e event
		for line := range strings.SplitSeq(block, "\n") {
			name, value, ok := strings.Cut(line, ":")
			require.True(t, ok, "%q", line)
			value = strings.TrimPrefix(value, " ")
			switch name {
			case "":
				e.comment = value
			case "id":
				e.id = value
			case "event":
				e.name = value
			case "data":
				e.data = value
			case "retry":
				e.name = "retry"
			default:
				require.Fail(t, "unknown field", line)
			}
		}
		events = append(events, e)
	}
	require.Equal(t, "retry", events[0].name)
	return events[1:]
}

// watch starts a stream in the bubble. The function returns the events received so far.
func (f *fixture) watch(t *testing.T, id string, headers ...string) (func() []event, chan struct{}) {
	t.Helper()
	w := httptest.NewRecorder()
	done := make(chan struct{})
	r := call{method: "GET", path: "/batch/" + id + "/events", headers: headers}.request(t)
	go func() {
		defer close(done)
		f.Handler().ServeHTTP(w, r)
	}()
	return func() []event {
		synctest.Wait()
		return parseEvents(t, w.Body.String())
	}, done
}

func TestEventsTellOfEveryChangeAndOfTheEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setup(t)
		id := f.created(t, call{body: actions(40)})
		seen, done := f.watch(t, id)
		require.Len(t, seen(), 1)
		require.Equal(t, "progress", seen()[0].name)
		require.Contains(t, seen()[0].data, `"status":"queued"`)

		// Twenty changes in a second give four events. Without a change there is no
		// event.
		for i := range 20 {
			f.store.finish(id, i, succeeded("1"))
			time.Sleep(50 * time.Millisecond)
		}
		time.Sleep(time.Second)
		got := seen()
		require.LessOrEqual(t, len(got), 1+5)
		require.GreaterOrEqual(t, len(got), 1+3)
		require.Contains(t, got[len(got)-1].data, `"succeeded":20`)
		ids := map[string]bool{}
		for _, e := range got {
			require.False(t, ids[e.id], "an event came twice")
			ids[e.id] = true
		}
		select {
		case <-done:
			require.Fail(t, "the stream ended early")
		default:
		}

		for i := 20; i < 40; i++ {
			f.store.finish(id, i, succeeded("1"))
		}
		<-done // a wake-up ends it, without time passing
		end := seen()[len(seen())-1]
		require.Equal(t, "end", end.name)
		require.Contains(t, end.data, `"status":"completed"`)
		require.NotContains(t, end.data, `"results":[`)
		require.Zero(t, f.store.watching())
	})
}

func TestEventsHaveHeartbeats(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setup(t)
		seen, done := f.watch(t, f.created(t, call{body: two}))
		time.Sleep(46 * time.Second)
		got := seen()
		require.Len(t, got, 1+3)
		for _, e := range got[1:] {
			require.NotEmpty(t, e.comment)
		}
		f.drain()
		<-done
		require.Contains(t, seen()[4].comment, "stopping")
	})
}

func TestEventsAreNotRepeatedToWhoComesBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setup(t)
		id := f.created(t, call{body: two})
		seen, done := f.watch(t, id)
		known := seen()[0].id
		again, doneAgain := f.watch(t, id, "Last-Event-ID: "+known)
		time.Sleep(time.Second)
		require.Empty(t, again())
		f.store.finish(id, 0, succeeded("1"))
		f.store.finish(id, 1, succeeded("1"))
		<-done
		<-doneAgain
		require.Len(t, again(), 1)
		end := again()[0]

		// A client that already has the last event also sees the end of the stream.
		last, doneLast := f.watch(t, id, "Last-Event-ID: "+end.id)
		<-doneLast
		require.Equal(t, []event{end}, last())
	})
}

func TestEventsSurviveAnOutageAndEndWithTheBatch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setup(t)
		id := f.created(t, call{body: two})
		seen, done := f.watch(t, id)
		require.Len(t, seen(), 1)
		f.store.setDown(&batch.UnavailableError{Err: fmt.Errorf("away")})
		f.store.finish(id, 0, succeeded("1"))
		time.Sleep(5 * time.Second)
		require.Len(t, seen(), 1)
		f.store.setDown(nil)
		time.Sleep(time.Second)
		require.Len(t, seen(), 2)

		require.NoError(t, f.store.Delete(t.Context(), auth.Anonymous, id))
		<-done
		require.Contains(t, seen()[2].comment, "gone")
		require.Zero(t, f.store.watching())
	})
}

func TestEventsEndWhenTheClientHangsUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setup(t)
		id := f.created(t, call{body: two})
		ctx, hangUp := context.WithCancel(t.Context())
		time.AfterFunc(3*time.Second, hangUp)
		start := time.Now()
		serve(f, call{method: "GET", path: "/batch/" + id + "/events"}.request(t).WithContext(ctx))
		require.Equal(t, 3*time.Second, time.Since(start))
		require.Zero(t, f.store.watching())
		require.NotContains(t, f.log.String(), `"level":"ERROR"`)
	})
}
