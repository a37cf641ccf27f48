package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/client"
)

func TestTheDemoShowsEverythingAsPlanned(t *testing.T) {
	t.Parallel()
	got := batchd(t, "", "demo")
	require.Equal(t, exitOK, got.code, "%s%s", got.stdout, got.stderr)
	for _, want := range []string{
		"89 succeeded, 9 failed, 1 errored, 1 unknown",
		"all 100 are as planned, in the order of the actions",
		"batch.completed was received, and its signature verified",
		"With --keep",
		"batchd results ",
	} {
		require.Contains(t, got.stdout, want)
	}
	require.NotContains(t, got.stdout, "NOT AS PLANNED")
	for _, kind := range demoKinds() {
		require.Contains(t, got.stdout, kind.shows)
	}
}

func TestTheDemoStaysOnRequest(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stdout := &signalWriter{on: "/batch/"}
	stdout.do = func() {
		// The demo serves until it is interrupted.
		_, address, _ := strings.Cut(stdout.text.String(), "batchd    ")
		server, _, _ := strings.Cut(address, " ")
		require.Equal(t, exitOK, batchd(t, `{"method":"GET","path":"/uuid"}`, "submit", "-", "--wait", "--server", server).code)
		cancel()
	}
	require.Equal(t, exitOK, run(ctx, []string{"demo", "--keep", "--all"}, strings.NewReader(""), stdout, io.Discard))
	require.Equal(t, 32, strings.Count(stdout.text.String(), " POST /post "), "all are shown")
}

func TestTheDemoCanBeInterrupted(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	stdout := &signalWriter{on: "accepted", do: cancel}
	require.Equal(t, exitInterrupted, run(ctx, []string{"demo"}, strings.NewReader(""), stdout, io.Discard))
}

func TestThePlanHasEveryKindInAFixedOrder(t *testing.T) {
	t.Parallel()
	plan := newDemoPlan()
	require.Len(t, plan, demoActions)
	count := map[string]int{}
	for i, p := range plan {
		require.NotNil(t, p.kind, "place %d is empty", i)
		require.Equal(t, demoID(i), p.action.ID)
		count[p.kind.name]++
	}
	sum := 0
	for _, kind := range demoKinds() {
		require.Equal(t, kind.count, count[kind.name], kind.name)
		sum += kind.count
	}
	require.Equal(t, demoActions, sum)
	names := func(plan []planned) (all []string) {
		for _, p := range plan {
			all = append(all, p.kind.name+" "+p.action.Path)
		}
		return all
	}
	require.Equal(t, names(plan), names(newDemoPlan()))
}

func TestThePlanSeesWhatDeviates(t *testing.T) {
	t.Parallel()
	const good = `{"id":"demo-7","index":7,"outcome":"succeeded","status":200,"body":{"json":{"order":7}},"attempts":1}`
	kinds := demoKinds()
	post := &kinds[slices.IndexFunc(kinds, func(k demoKind) bool { return k.name == "post" })].want
	slow := &kinds[slices.IndexFunc(kinds, func(k demoKind) bool { return k.name == "slow" })].want
	head := &kinds[slices.IndexFunc(kinds, func(k demoKind) bool { return k.name == "head" })].want
	for _, tc := range []struct {
		want     *want
		from, to string
		fault    string
	}{
		{post, "", "", ""},
		{post, `"index":7`, `"index":8`, `it is that of action 8, "demo-7"`},
		{post, `demo-7`, `demo-8`, `it is that of action 7, "demo-8"`},
		{post, `"status":200`, `"status":201`, `it is succeeded with status 201 and error code "", and not succeeded with 200 and ""`},
		{post, `succeeded`, `failed`, `it is failed with status 200 and error code "", and not succeeded with 200 and ""`},
		{post, `"attempts":1`, `"attempts":2`, "it took 2 attempts, and not 1"},
		{post, `"order":7`, `"order":8`, "its body is not the answer to this action"},
		{post, `"order":7`, `"orders":7`, "its body is not the answer to this action"},
		{slow, "", "", "it took 0s, and not at least 1s"},
		{head, "", "", "it has a body of 20 bytes, and not none"},
	} {
		var r client.Result
		require.NoError(t, json.Unmarshal([]byte(strings.Replace(good, tc.from, tc.to, 1)), &r))
		require.Equal(t, tc.fault, tc.want.check(7, &r))
	}
}

func TestTheDemosReceiverRefusesWhatIsNotSigned(t *testing.T) {
	t.Parallel()
	hooks := &hookReceiver{secret: "whsec_" + strings.Repeat("QUFB", 11), events: make(chan *client.Event, 1)}
	answer := httptest.NewRecorder()
	hooks.ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/hook", strings.NewReader(`{"type":"batch.completed"}`)))
	require.Equal(t, http.StatusUnauthorized, answer.Code)
	require.Empty(t, hooks.events)
}

func TestTheDemosTargetIsBusyOnce(t *testing.T) {
	t.Parallel()
	target := newDemoTarget()
	for _, want := range []int{http.StatusServiceUnavailable, http.StatusOK, http.StatusOK} {
		answer := httptest.NewRecorder()
		target.ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/flaky/1", strings.NewReader("{}")))
		require.Equal(t, want, answer.Code)
	}
}
