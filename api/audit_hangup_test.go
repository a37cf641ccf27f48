package api

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/api/auth"
	"github.com/batchd/batchd/internal/audit"
	"github.com/batchd/batchd/internal/batch"
)

// hangingUp is a store whose client hangs up while it changes something. As a Redis may, it carries the change out, but
// fails if the context ends with the client.
type hangingUp struct {
	*fakeStore
	hangUp func()
}

func after[T any](ctx context.Context, s *hangingUp, value T, err error) (T, error) {
	s.hangUp()
	if err == nil {
		err = ctx.Err()
	}
	return value, err
}

func (s *hangingUp) Cancel(ctx context.Context, owner, id string) (*batch.Batch, error) {
	b, err := s.fakeStore.Cancel(ctx, owner, id)
	return after(ctx, s, b, err)
}

func (s *hangingUp) Retry(ctx context.Context, owner, id string, spec *batch.RetrySpec) (*batch.Batch, *batch.LimitState, error) {
	b, state, err := s.fakeStore.Retry(ctx, owner, id, spec)
	b, err = after(ctx, s, b, err)
	return b, state, err
}

func (s *hangingUp) Delete(ctx context.Context, owner, id string) error {
	_, err := after(ctx, s, true, s.fakeStore.Delete(ctx, owner, id))
	return err
}

func (s *hangingUp) Redeliver(ctx context.Context, owner, id string) error {
	_, err := after(ctx, s, true, s.fakeStore.Redeliver(ctx, owner, id))
	return err
}

func (s *hangingUp) Deliveries(ctx context.Context, owner, id string) (*batch.DeliveryLog, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return s.fakeStore.Deliveries(ctx, owner, id)
}

// What was carried out is ok in the audit log, also if the client hangs up before the answer.
func TestWhatWasDoneIsRecordedAlthoughTheClientHangsUp(t *testing.T) {
	t.Parallel()
	option, news, _ := recorded(t)
	var store *hangingUp
	f := setup(t, option, func(c *Config) {
		store = &hangingUp{fakeStore: newFakeStore()}
		c.Store = store
	})
	f.store, f.auth = store.fakeStore, only{alice}
	for path, event := range map[string]audit.Name{
		"POST /batch/{id}/cancel": audit.BatchCancel, "POST /batch/{id}/retry": audit.BatchRetry, "DELETE /batch/{id}": audit.BatchDelete,
		"POST /batch/{id}/webhook/redeliver": audit.WebhookRedeliver,
	} {
		id := f.created(t, call{body: `{"webhook":{"url":"https://example.com/"},` + actions(1)[1:]})
		if event != audit.BatchCancel {
			f.store.finish(id, 0, &batch.Result{Outcome: batch.Failed, Status: 500})
		}
		news()
		ctx, hangUp := context.WithCancel(t.Context())
		store.hangUp = hangUp
		method, path, _ := strings.Cut(strings.Replace(path, "{id}", id, 1), " ")
		serve(f, call{method: method, path: path}.request(t).WithContext(ctx))
		require.Error(t, ctx.Err(), path)
		found := news()
		require.Len(t, found, 1, path)
		require.Equal(t, []any{event, audit.OK, id, "key:alice", ""}, []any{found[0].Name, found[0].Result, found[0].Batch, found[0].Owner, found[0].Problem}, path)
	}
}

func TestASubmissionIsRecordedAlthoughTheClientHangsUpWhileItWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		option, news, _ := recorded(t)
		f := setup(t, option, endpoints)
		f.auth = only{alice}
		calls := []call{{method: "POST", path: "/batch", body: two, headers: []string{"Prefer: wait=10"}}}
		for _, d := range foreigners() {
			calls = append(calls, d.call())
		}
		for _, c := range calls {
			ctx, hangUp := context.WithCancel(t.Context())
			time.AfterFunc(time.Second, hangUp)
			serve(f, c.request(t).WithContext(ctx))
			found := news()
			require.Len(t, found, 1, c.path)
			require.Equal(t, []any{audit.BatchSubmit, audit.OK, 2, 0, ""}, []any{found[0].Name, found[0].Result, found[0].Count, found[0].Status, found[0].Problem}, c.path)
			require.NotEmpty(t, found[0].Batch)
		}
		// The credential expires while the request waits: the answer is 401, but the batch goes on.
		expiring := *alice
		expiring.Expires = time.Now().Add(time.Second)
		f.auth = only{&expiring}
		w := serve(f, calls[0].request(t))
		require.Equal(t, http.StatusUnauthorized, w.Code)
		found := news()
		require.Len(t, found, 1)
		require.Equal(t, []any{audit.BatchSubmit, audit.OK, 2, http.StatusUnauthorized}, []any{found[0].Name, found[0].Result, found[0].Count, found[0].Status})
	})
}

// A client that hangs up before anything was done is not refused either.
func TestARequestWhoseClientHangsUpIsAborted(t *testing.T) {
	t.Parallel()
	option, news, _ := recorded(t)
	f := setup(t, option)
	f.auth = only{&auth.Principal{Mode: auth.ModeKeys, Name: "root", Owner: "key:root", Scopes: auth.AllScopes()}}
	id := f.created(t, call{body: two})
	news()
	f.store.setDown(context.Canceled)
	ctx, hangUp := context.WithCancel(t.Context())
	hangUp()
	f.Handler().ServeHTTP(httptest.NewRecorder(), call{method: "POST", path: "/batch/" + id + "/cancel"}.request(t).WithContext(ctx))
	found := news()
	require.Len(t, found, 1)
	require.Equal(t, []any{audit.BatchCancel, audit.Aborted, 0, ""}, []any{found[0].Name, found[0].Result, found[0].Status, found[0].Problem})
}
