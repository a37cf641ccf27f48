package worker

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/dispatch"
	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/consumer"
)

// erp is a target with transactions: posts within a transaction take effect when it is
// committed.
type erp struct {
	mu    sync.Mutex
	n     int
	open  map[string][]string
	items []string
	log   []string
	hang  chan struct{} // requests with "hang" in their path wait for it
	began chan struct{}
}

func (e *erp) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	tx := r.Header.Get("X-Tx")
	e.log = append(e.log, r.Method+" "+r.URL.Path+" "+tx)
	_, isOpen := e.open[tx]
	switch path := r.URL.Path; {
	case r.Header.Get("Authorization") != "Bearer t":
		w.WriteHeader(http.StatusUnauthorized)
	case path == "/tx":
		e.n++
		id := fmt.Sprintf("T %d/x", e.n) // an id that needs escaping
		e.open[id] = nil
		_ = json.NewEncoder(w).Encode(map[string]any{"tx": map[string]string{"id": id}})
	case strings.HasPrefix(path, "/tx/"):
		if !isOpen || !strings.HasPrefix(path, "/tx/"+tx+"/") {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		if strings.HasSuffix(path, "/commit") {
			e.items = append(e.items, e.open[tx]...)
		}
		delete(e.open, tx)
	case strings.Contains(path, "refuse"):
		w.WriteHeader(http.StatusConflict)
	default:
		if strings.Contains(path, "hang") {
			hang := e.hang
			e.mu.Unlock()
			e.began <- struct{}{}
			<-hang
			e.mu.Lock()
		}
		switch {
		case tx == "":
			e.items = append(e.items, path)
		case isOpen:
			e.open[tx] = append(e.open[tx], path)
		default:
			w.WriteHeader(http.StatusConflict)
		}
	}
}

// withERP replaces the bundle's target by one that it reaches over HTTP.
func withERP(t *testing.T, b *bundle) *erp {
	t.Helper()
	e := &erp{open: map[string][]string{}, hang: make(chan struct{}), began: make(chan struct{}, 8)}
	server := httptest.NewServer(e)
	t.Cleanup(server.Close)
	b.cfg.Targets[0].BaseURL = server.URL
	b.cfg.Targets[0].Deny = []batch.Rule{{Path: "/tx/**"}} // clients may not call these paths, batchd may
	b.cfg.Targets[0].Transactions = &batch.Transactions{
		Begin: batch.Call{Method: "POST", Path: "/tx"}, ID: batch.Locator{Pointer: "/tx/id"}, SendAs: batch.Sender{Header: "X-Tx"},
		Commit: batch.Call{Method: "POST", Path: "/tx/{id}/commit"}, Rollback: batch.Call{Method: "POST", Path: "/tx/{id}/rollback"},
	}
	d, err := dispatch.New(dispatch.Config{Targets: b.cfg.Targets, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	t.Cleanup(d.Close)
	b.cfg.Dispatcher, b.cfg.Prober = d, d
	return e
}

// submitPaths commits a batch of POSTs. A prefix before a colon names the group.
func (b *bundle) submitPaths(paths ...string) string {
	b.t.Helper()
	u, err := b.store.Open(b.t.Context(), "me", "")
	require.NoError(b.t, err)
	for _, path := range paths {
		group, path, _ := strings.Cut(path, ":")
		require.NoError(b.t, u.Add(b.t.Context(), &batch.Action{
			Method: "POST", Path: path, Group: group, Headers: []batch.Field{{Name: "Authorization", Value: "Bearer t"}},
		}))
	}
	got, _, err := u.Commit(b.t.Context(), &batch.Spec{Target: "crm", ExpiresIn: time.Hour, Retention: time.Hour})
	require.NoError(b.t, err)
	return got.ID
}

func TestGroupsRunInTransactionsOfTheTarget(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	e := withERP(t, b)
	b.run()
	id := b.submitPaths("g:/g1", "h:/h1", ":/free", "g:/g2", "h:/h2/refuse", "g:/g3", "h:/h3", "alone:/alone")
	got, results := b.wait(id)
	require.Equal(t, batch.Counts{Total: 8, Succeeded: 5, Failed: 1, Skipped: 2}, got.Counts)
	for i, want := range []batch.Outcome{0: batch.Succeeded, 1: batch.Skipped, 2: batch.Succeeded, 3: batch.Succeeded, 4: batch.Failed, 5: batch.Succeeded, 6: batch.Skipped, 7: batch.Succeeded} {
		require.Equal(t, want, results[i].Outcome, "action %d", i)
	}
	require.Equal(t, `done, and then taken back: action 4 ("4") of group "h" failed with status 409`, results[1].Error.Message)
	require.Equal(t, `not run: action 4 ("4") of group "h" failed with status 409`, results[6].Error.Message)
	require.Equal(t, http.StatusConflict, results[4].Status)
	e.mu.Lock()
	defer e.mu.Unlock()
	require.ElementsMatch(t, []string{"/g1", "/g2", "/g3", "/free", "/alone"}, e.items)
	require.Less(t, slices.Index(e.items, "/g1"), slices.Index(e.items, "/g2"))
	require.Less(t, slices.Index(e.items, "/g2"), slices.Index(e.items, "/g3"))
	require.Empty(t, e.open)
}

func TestAGroupThatAShutdownCutsOffIsBroughtToAnEndByAnotherWorker(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	e := withERP(t, b)
	b.cfg.Drain = 50 * time.Millisecond
	stop := b.run()
	id := b.submitPaths("g:/g1", "g:/hang", "g:/g3", ":/free")
	<-e.began
	stop()
	got, err := b.store.Get(t.Context(), "me", id, 0)
	require.NoError(t, err)
	require.Equal(t, 3, got.Counts.Pending)
	close(e.hang)
	b.cfg.Name = "w2"
	b.run()
	_, results := b.wait(id)
	// The worker does not send a POST again that was in flight: it rolls the
	// transaction back.
	require.Equal(t, batch.Skipped, results[0].Outcome)
	require.Equal(t, batch.Errored, results[1].Outcome)
	require.Equal(t, batch.CodeInterrupted, results[1].Error.Code)
	require.Equal(t, batch.Skipped, results[2].Outcome)
	require.Equal(t, batch.Succeeded, results[3].Outcome)
	e.mu.Lock()
	defer e.mu.Unlock()
	require.Equal(t, []string{"/free"}, e.items)
	require.Empty(t, e.open)
}

func TestAGroupOfABatchThatIsErasedIsTakenBack(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	e := withERP(t, b)
	stop := b.run()
	id := b.submitPaths("g:/g1", "g:/hang", "g:/g3")
	<-e.began
	require.NoError(t, b.store.Delete(t.Context(), "me", id))
	close(e.hang)
	stop()
	e.mu.Lock()
	defer e.mu.Unlock()
	require.Empty(t, e.items)
	require.Empty(t, e.open)
	require.Len(t, e.log, 4, "begin, two members, rollback")
}

func TestAGroupThatADeadWorkerHeldIsTakenOver(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	e := withERP(t, b)
	id := b.submitPaths("g:/g1", "g:/g2")
	begun, err := b.store.Ledger.Begin(t.Context(), id, 0, "dead")
	require.NoError(t, err)
	begun.Group.Seq, begun.Group.Step, begun.Group.Sent, begun.Group.Attempt = 1, batch.GroupBegin, true, 1
	_, err = b.store.Ledger.SaveGroup(t.Context(), id, begun.Token, begun.Group, nil)
	require.NoError(t, err)
	b.run()
	_, results := b.wait(id)
	for _, r := range results {
		require.Equal(t, batch.Skipped, r.Outcome)
		require.Contains(t, r.Error.Message, "a transaction may have been left open at the target")
	}
	require.Empty(t, e.items)
}

func TestAGroupIsRunOnceHoweverManyTasksBringIt(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	e := withERP(t, b)
	id := b.submitPaths("g:/hang", "g:/g2")
	first, err := New(b.cfg)
	require.NoError(t, err)
	second, err := New(b.cfg)
	require.NoError(t, err)
	second.cfg.Name = "w2"
	_, err = b.store.Ledger.Workers.Beat(t.Context(), first.cfg.Name)
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- first.runAction(id, 0, &consumer.Slot{}) }()
	<-e.began
	for _, w := range []*Worker{first, second} {
		var later *laterError
		require.ErrorAs(t, w.runAction(id, 0, &consumer.Slot{}), &later)
		require.Equal(t, heldAgain, later.after)
		require.NoError(t, w.runAction(id, 1, &consumer.Slot{}), "the other members have nothing to do")
	}
	close(e.hang)
	require.NoError(t, <-done)
	_, results := b.wait(id)
	require.Equal(t, batch.Succeeded, results[0].Outcome)
	require.Equal(t, []string{"/hang", "/g2"}, e.items)
}
