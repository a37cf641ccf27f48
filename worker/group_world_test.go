package worker

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/consumer"
)

// fate is the outcome of one request.
type fate string

const (
	fine      fate = ""
	refused   fate = "refused"   // answered with 409, without effect
	busy      fate = "busy"      // answered with 503, without effect
	unsent    fate = "unsent"    // never sent
	lost      fate = "lost"      // never arrived, and the sender does not know
	swallowed fate = "swallowed" // took effect, and its answer was not seen
	cut       fate = "cut"       // took effect, and the body of its answer broke off after the status
	nameless  fate = "nameless"  // answered 200, without a transaction id
)

// script gives the fates of each request's attempts; the last fate applies to all later
// attempts. Requests are "begin", "m0", "u0", "commit", "rollback".
type script map[string][]fate

// death stops an executor between any two of its operations.
type death struct{}

// world is one group, its ledger, and a target that remembers which requests took
// effect. The executor crashes at chosen moments: before or after any of its calls.
type world struct {
	script  script
	actions []batch.Action

	moment  int
	crashAt map[int]bool
	crashed int

	// the ledger
	record  []byte
	seq     int64
	token   int
	staged  map[int]batch.Result
	results []batch.Result

	// the target
	attempts map[string]int
	arrived  map[string]int          // requests that took effect or were refused for good
	open     map[string]map[int]bool // transactions and their uncommitted members
	ended    map[string]string
	effects  map[int]bool
}

func newWorld(actions []batch.Action, s script, crashes ...int) *world {
	w := &world{
		script: s, actions: actions, crashAt: map[int]bool{}, staged: map[int]batch.Result{},
		attempts: map[string]int{}, arrived: map[string]int{}, open: map[string]map[int]bool{}, ended: map[string]string{}, effects: map[int]bool{},
	}
	for _, c := range crashes {
		w.crashAt[c] = true
	}
	g := &batch.Group{Name: "g"}
	for i := range actions {
		g.Members = append(g.Members, batch.Member{Index: w.index(i), ID: fmt.Sprintf("id-%d", i)})
	}
	w.record, _ = json.Marshal(g)
	return w
}

// index is the index of a member in its batch, which also has other actions.
func (w *world) index(at int) int { return 10*at + 3 }

func (w *world) at(index int) int { return (index - 3) / 10 }

// tick marks a moment at which the executor may crash.
func (w *world) tick() {
	w.moment++
	if w.crashAt[w.moment] {
		w.crashed++
		panic(death{})
	}
}

// take gives the group to a new executor. The world refuses the calls of the earlier
// one.
func (w *world) take() *batch.Begun {
	w.token++
	g := &batch.Group{}
	if err := json.Unmarshal(w.record, g); err != nil {
		panic(err)
	}
	return &batch.Begun{
		Target: "crm", Owner: "me", Action: w.actions[0], Token: batch.Token(fmt.Sprint(w.token)), Attempt: w.token, Group: g,
		FirstAt: time.Now(), StartedAt: time.Now(), ExpiresAt: time.Now().Add(time.Hour),
	}
}

// Member implements [batch.GroupLedger].
func (w *world) Member(_ context.Context, _ string, index int) (*batch.Action, error) {
	w.tick()
	a := w.actions[w.at(index)]
	return &a, nil
}

// SaveGroup implements [batch.GroupLedger].
func (w *world) SaveGroup(_ context.Context, _ string, token batch.Token, g *batch.Group, staged *batch.Result) (time.Time, error) {
	w.tick()
	if token != batch.Token(fmt.Sprint(w.token)) {
		return time.Time{}, batch.ErrStale
	}
	if g.Seq > w.seq {
		w.seq = g.Seq
		w.record, _ = json.Marshal(g)
		if staged != nil {
			w.staged[staged.Index] = *staged
		}
	}
	w.tick()
	return time.Now(), nil
}

// FinishGroup implements [batch.GroupLedger].
func (w *world) FinishGroup(_ context.Context, _ string, token batch.Token, g *batch.Group, results []batch.Result) error {
	w.tick()
	if token != batch.Token(fmt.Sprint(w.token)) || w.results != nil {
		return batch.ErrStale
	}
	for i, r := range results {
		if r.ID == "" {
			kept, ok := w.staged[g.Members[i].Index]
			if !ok || kept.Outcome != r.Outcome {
				panic("no such result was staged")
			}
			r = kept
		}
		w.results = append(w.results, r)
	}
	w.tick()
	return nil
}

// Repeatable implements [batch.Dispatcher].
func (w *world) Repeatable(_ string, a *batch.Action) bool {
	return a.Retry == batch.RetrySafe || a.Retry == batch.RetryAuto && a.Method != http.MethodPost
}

// Do implements [batch.Dispatcher].
func (w *world) Do(_ context.Context, r *batch.Request) *batch.Response {
	w.tick()
	if r.Owner != "me" {
		panic("a request without its owner")
	}
	name := strings.TrimPrefix(r.Action.Path, "/")
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		name = name[i+1:]
	}
	if name == "tx" {
		name = "begin"
	}
	fates := w.script[name]
	n := w.attempts[name]
	w.attempts[name]++
	f := fine
	if len(fates) > 0 {
		f = fates[min(n, len(fates)-1)]
	}
	var resp *batch.Response
	safe := w.Repeatable("", r.Action)
	switch f {
	case unsent:
		resp = &batch.Response{Unsent: true, Repeat: true, Result: batch.Result{Outcome: batch.Errored, Error: &batch.Failure{Code: batch.CodeRefused, Message: "no connection"}}}
	case busy:
		resp = answer(503)
		resp.Repeat = true
	case refused:
		w.arrived[name]++
		resp = answer(409)
	case nameless:
		resp = answer(200)
	case lost, swallowed, cut:
		if f != lost {
			w.serve(name, r)
		}
		resp = &batch.Response{Repeat: safe, Result: batch.Result{Outcome: batch.Unknown, Error: &batch.Failure{Code: batch.CodeTimeout, Message: "no answer within 1s"}}}
		if safe {
			resp.Result.Outcome = batch.Errored
		}
		if f == cut {
			resp.Result.Status, resp.Result.Truncated, resp.Result.Error.Code = 200, true, batch.CodeReset
		}
	case fine:
		resp = w.serve(name, r)
	}
	w.tick()
	return resp
}

// serve applies a request's effect.
func (w *world) serve(name string, r *batch.Request) *batch.Response {
	w.arrived[name]++
	tx := r.Transaction
	switch name {
	case "begin":
		id := fmt.Sprintf("T%d", len(w.open)+len(w.ended)+1)
		w.open[id] = map[int]bool{}
		resp := answer(201)
		resp.Result.Body = fmt.Appendf(nil, `{"data":{"id":%q}}`, id)
		return resp
	case "commit", "rollback":
		waiting, isOpen := w.open[tx]
		if !strings.Contains(r.Action.Path, "/"+tx+"/") {
			return answer(400)
		}
		if !isOpen {
			return answer(map[string]int{"commit": 409, "rollback": 404}[name])
		}
		delete(w.open, tx)
		w.ended[tx] = name
		if name == "commit" {
			for at := range waiting {
				w.effects[at] = true
			}
		}
		return answer(200)
	}
	var at int
	_, _ = fmt.Sscanf(name[1:], "%d", &at)
	switch {
	case name[0] == 'u' && !w.effects[at]:
		return answer(404)
	case name[0] == 'u':
		delete(w.effects, at)
	case r.Action.Method == http.MethodGet:
	case tx != "" && w.open[tx] == nil:
		return answer(409)
	case tx != "":
		w.open[tx][at] = true
	default:
		w.effects[at] = true
	}
	resp := answer(200)
	resp.Result.Body = []byte(name)
	return resp
}

// play runs the group to its end, with one executor after another as they crash.
func (w *world) play(worker *Worker) {
	own := &Worker{cfg: worker.cfg, targets: worker.targets, metrics: worker.metrics, log: worker.log}
	own.cfg.Ledger, own.cfg.Dispatcher = groupOnly{GroupLedger: w}, w
	own.gates = map[string]*targetGate{"crm": newTargetGate(own.targets["crm"])}
	for w.results == nil {
		if w.token > 100 {
			panic("the group does not end")
		}
		func() {
			defer func() {
				if p := recover(); p != nil {
					if _, ok := p.(death); !ok {
						panic(p)
					}
				}
			}()
			_ = own.runGroup(context.Background(), "b", w.take(), &consumer.Slot{})
		}()
	}
}

// groupOnly is a ledger that implements only the methods for groups.
type groupOnly struct {
	batch.Ledger
	batch.GroupLedger
}

func (g groupOnly) Member(ctx context.Context, id string, index int) (*batch.Action, error) {
	return g.GroupLedger.Member(ctx, id, index)
}

func (g groupOnly) SaveGroup(ctx context.Context, id string, t batch.Token, rec *batch.Group, staged *batch.Result) (time.Time, error) {
	return g.GroupLedger.SaveGroup(ctx, id, t, rec, staged)
}

func (g groupOnly) FinishGroup(ctx context.Context, id string, t batch.Token, rec *batch.Group, results []batch.Result) error {
	return g.GroupLedger.FinishGroup(ctx, id, t, rec, results)
}

// sagaWorker returns a worker for a world. Commit is the method of the target's commit;
// if it is empty, the target has no transactions.
func sagaWorker(commit string) *Worker {
	target := batch.Target{Name: "crm", BaseURL: "http://127.0.0.1", Retry: batch.Retry{Attempts: 3, Base: 1, Max: 2}}
	if commit != "" {
		target.Transactions = &batch.Transactions{
			Begin: batch.Call{Method: "POST", Path: "/tx"}, ID: batch.Locator{Pointer: "/data/id"}, SendAs: batch.Sender{Header: "X-Tx"},
			Commit: batch.Call{Method: commit, Path: "/tx/{id}/commit"}, Rollback: batch.Call{Method: "POST", Path: "/tx/{id}/rollback"},
		}
	}
	return &Worker{
		cfg: Config{Name: "w"}, metrics: newMetrics(), log: slog.New(slog.DiscardHandler),
		targets: map[string]batch.Target{"crm": target.WithDefaults()},
	}
}
