package worker

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/batchd/batchd/internal/batch"
)

// members returns a group of members with those methods. Each has an undo unless the
// target has transactions. With bare, the last one has no undo.
func members(transactions, bare bool, methods ...string) []batch.Action {
	actions := make([]batch.Action, len(methods))
	for i, m := range methods {
		actions[i] = batch.Action{Method: m, Path: fmt.Sprintf("/m%d", i), Group: "g"}
		if transactions { // a client cannot name a transaction of its own
			actions[i].Headers = []batch.Field{{Name: "x-tx", Value: "mine"}}
		}
		if transactions || bare && i == len(methods)-1 || m == "GET" && i%2 == 0 {
			continue
		}
		actions[i].Undo = &batch.Action{Method: "POST", Path: fmt.Sprintf("/u%d", i)}
	}
	return actions
}

var methods = []string{"POST", "GET", "PUT"}

// mixes returns every sequence of up to two methods, and some longer ones.
func mixes(n int) [][]string {
	var all [][]string
	switch n {
	case 1:
		return [][]string{{"POST"}, {"GET"}, {"PUT"}}
	case 2:
		for _, first := range methods {
			for _, second := range methods {
				all = append(all, []string{first, second})
			}
		}
	default:
		for shift := range methods {
			mix := make([]string, n)
			for i := range mix {
				mix[i] = methods[(i+shift)%len(methods)]
			}
			all = append(all, mix)
		}
	}
	return all
}

// trouble lists the fates of a step, and the fates of taking it back.
type trouble struct {
	steps [][]fate
	backs []fate
}

var (
	everything = trouble{
		[][]fate{{refused}, {busy, fine}, {busy}, {unsent}, {lost}, {swallowed}, {swallowed, refused}, {lost, refused}, {lost, fine}, {swallowed, fine}, {swallowed, unsent}, {cut}, {cut, refused}, {cut, fine}},
		[]fate{refused, lost, swallowed, unsent, busy, cut},
	}
	// typical is a smaller set, for tests that also try many crashes.
	typical = trouble{[][]fate{{refused}, {busy, fine}, {lost}, {swallowed, refused}}, []fate{refused, swallowed}}
)

// scripts returns the scripts of failures for a group of n members.
func scripts(n int, transactions bool, x trouble) []script {
	all := []script{{}}
	var steps []string
	for i := range n {
		steps = append(steps, fmt.Sprintf("m%d", i))
	}
	if transactions {
		all = append(all, script{"begin": {nameless}})
		steps = append(steps, "begin", "commit")
	}
	for _, step := range steps {
		for _, f := range x.steps {
			all = append(all, script{step: f})
			if f[0] == fine || len(f) == 2 && f[1] == fine {
				continue
			}
			for _, back := range x.backs { // and then failures of taking it back
				s := script{step: f, "rollback": {back}}
				for i := range n {
					if !transactions && i%2 == 0 {
						s[fmt.Sprintf("u%d", i)] = []fate{back}
					}
				}
				all = append(all, s, script{step: f, "rollback": {back, fine}, "u0": {back, fine}})
			}
		}
	}
	return all
}

// plain reports whether every answer is seen and no rollback or undo fails.
func (s script) plain() bool {
	for name, fates := range s {
		if name == "rollback" || name[0] == 'u' || slices.Contains(fates, lost) || slices.Contains(fates, swallowed) || slices.Contains(fates, cut) {
			return false
		}
	}
	return true
}

// undoable reports whether every member that changes something has an undo, and no undo
// fails.
func (w *world) undoable() bool {
	for name := range w.script {
		if name[0] == 'u' {
			return false
		}
	}
	if w.attempts["begin"] > 0 {
		return false
	}
	for _, a := range w.actions {
		if a.Undo == nil && a.Method != http.MethodGet {
			return false
		}
	}
	return true
}

// check checks that all of the group counts, or none, or that the results name the
// members that may count.
func (w *world) check(t require.TestingT) {
	require.Len(t, w.results, len(w.actions))
	all, none, doubt := true, true, false
	for at, r := range w.results {
		require.True(t, r.Outcome.Final())
		require.Equal(t, w.index(at), r.Index)
		require.Equal(t, fmt.Sprintf("id-%d", at), r.ID)
		all = all && r.Outcome == batch.Succeeded
		none = none && r.Outcome != batch.Succeeded
		doubt = doubt || r.Outcome == batch.Unknown
		switch r.Outcome {
		case batch.Succeeded:
			require.Equal(t, fmt.Sprintf("m%d", at), string(r.Body))
		case batch.Unknown:
			require.Contains(t, r.Error.Message, "may remain")
			require.Contains(t, r.Error.Message, strconv.Itoa(r.Index))
		case batch.Skipped:
			require.Equal(t, batch.CodeDependencyFailed, r.Error.Code)
		case batch.Pending, batch.Failed, batch.Errored, batch.Cancelled, batch.Expired:
		}
	}
	require.True(t, all || none, "some members counted and some did not")
	if w.crashed == 0 && w.script.plain() {
		require.False(t, doubt, "every answer was seen, and yet something is unknown")
	}
	if w.crashed == 0 && len(w.script) == 0 {
		require.True(t, all, "nothing went wrong, and yet it does not count")
	}
	if fates := w.script["commit"]; w.crashed == 0 && len(w.script) == 1 && len(fates) == 1 && fates[0] == cut {
		require.True(t, all, "the status of the commit was seen, and yet it does not count")
	}
	if w.undoable() {
		require.False(t, doubt, "everything could be undone, and yet something is unknown")
	}
	for at, a := range w.actions {
		switch {
		case all && a.Method != http.MethodGet:
			require.True(t, w.effects[at], "member %d counts and took no effect", at)
		case w.effects[at]:
			require.Equal(t, batch.Unknown, w.results[at].Outcome, "member %d took effect and does not count", at)
		}
		if a.Method == http.MethodPost && !strings.Contains(fmt.Sprint(w.script), "m"+strconv.Itoa(at)) {
			require.LessOrEqual(t, w.arrived["m"+strconv.Itoa(at)], 1, "member %d was sent twice", at)
		}
	}
	if len(w.open) > 0 {
		said := doubt || len(w.actions) == 1 // only the log reports it then
		for _, r := range w.results {
			said = said || r.Error != nil && strings.Contains(r.Error.Message, "left open")
		}
		require.True(t, said, "a transaction was left open, and neither results nor log say so")
	}
}

// explorations runs test for every group of up to most members, in parallel.
func explorations(t *testing.T, most int, x trouble, test func(t *testing.T, w *Worker, actions []batch.Action, s script)) {
	t.Helper()
	for _, commit := range []string{"", "POST", "PUT"} {
		transactions := commit != ""
		for n := 1; n <= most; n++ {
			t.Run(fmt.Sprintf("commit %q, members %d", commit, n), func(t *testing.T) {
				t.Parallel()
				w := sagaWorker(commit)
				for _, mix := range mixes(n) {
					for _, bare := range []bool{false, true} {
						if bare && transactions {
							continue
						}
						for _, s := range scripts(n, transactions, x) {
							test(t, w, members(transactions, bare, mix...), s)
						}
					}
				}
			})
		}
	}
}

// explain describes the world that failed.
type explain struct {
	*testing.T
	w *world
}

func (e explain) FailNow() {
	e.Helper()
	e.Logf("script %v, crashes %v, effects %v, open %v, attempts %v\nrecord %s", e.w.script, e.w.crashAt, e.w.effects, e.w.open, e.w.attempts, e.w.record)
	for at, r := range e.w.results {
		e.Logf("%s: %s %d %+v", e.w.actions[at].Method, r.Outcome, r.Status, r.Error)
	}
	e.T.FailNow()
}

func TestAGroupCountsAsAWholeOrNotAtAll(t *testing.T) {
	t.Parallel()
	explorations(t, 3, everything, func(t *testing.T, w *Worker, actions []batch.Action, s script) {
		t.Helper()
		x := newWorld(actions, s)
		x.play(w)
		x.check(explain{t, x})
	})
}

func TestAGroupThatIsCutOffAnywhereIsBroughtToAnEnd(t *testing.T) {
	t.Parallel()
	explorations(t, 2, typical, func(t *testing.T, w *Worker, actions []batch.Action, s script) {
		t.Helper()
		for at := 1; ; at++ {
			x := newWorld(actions, s, at)
			x.play(w)
			x.check(explain{t, x})
			if x.crashed == 0 {
				return
			}
		}
	})
}

func TestAGroupThatIsCutOffAgainAndAgainIsBroughtToAnEnd(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		commit, n := rapid.SampledFrom([]string{"", "POST", "PUT"}).Draw(r, "commit"), rapid.IntRange(1, 4).Draw(r, "members")
		mix := rapid.SliceOfN(rapid.SampledFrom(methods), n, n).Draw(r, "methods")
		transactions := commit != ""
		s := rapid.SampledFrom(scripts(n, transactions, everything)).Draw(r, "script")
		crashes := rapid.SliceOfN(rapid.IntRange(1, 80), 0, 6).Draw(r, "crashes")
		x := newWorld(members(transactions, rapid.Bool().Draw(r, "bare"), mix...), s, crashes...)
		x.play(sagaWorker(commit))
		x.check(r)
	})
}
