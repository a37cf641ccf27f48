package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// This program starts itself as target and as peer, and so does its test.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-") {
		start := run
		if os.Args[1] == "test-parent" {
			start = func(ctx context.Context, args []string) error { return runParent(ctx, args[1]) }
		}
		if err := start(context.Background(), os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// runParent starts a child, prints its id, and waits until it is killed.
func runParent(ctx context.Context, dir string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	p, err := startProcess(dir, "target", self, "target")
	if err != nil {
		return err
	}
	if _, err := p.await(ctx, listening); err != nil {
		return err
	}
	fmt.Fprintln(os.Stdout, p.pid)
	<-ctx.Done()
	return nil
}

func newBench(t *testing.T) *bench {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	return &bench{rounds: 2, fsync: "everysec", contenders: contenderNames(), sizes: shortSizes, dir: t.TempDir(), self: self, out: &strings.Builder{}}
}

// liar spoils the results of another contender.
type liar struct {
	contender
	spoil func(results []result)
}

func (l liar) run(ctx context.Context, name string, bodies [][]byte) (timing, []result, error) {
	took, results, err := l.contender.run(ctx, name, bodies)
	if name != "warm" {
		l.spoil(results)
	}
	return took, results, err
}

func startLiar(spoil func([]result)) starter {
	return func(ctx context.Context, w *world, l load) (contender, error) {
		c, err := startPlain(ctx, w, l)
		return liar{c, spoil}, err
	}
}

func TestContendersRaceAndNothingIsLeft(t *testing.T) {
	t.Parallel()
	b, out := newBench(t), &section{}
	var pids []int
	kept := func(start starter) starter {
		return func(ctx context.Context, w *world, l load) (contender, error) {
			c, err := start(ctx, w, l)
			pids = append(pids, w.redis.pid, w.target.pid)
			for _, p := range w.servers {
				pids = append(pids, p.pid)
			}
			return c, err
		}
	}
	entrants := []entrant{{name: "plain", start: kept(startPlain)}, {name: "asynq-4", start: kept(startAsynq(4))}}
	// More than a page, so that results are collected in both ways.
	require.NoError(t, b.race(t.Context(), out, load{actions: 2*asynqPage + 10, size: smallBody, inFlight: 8}, entrants))
	for _, name := range []string{"plain", "asynq-4"} {
		require.Len(t, out.of(name, "in_hand"), 2)
		require.Positive(t, out.of(name, "in_hand")[0])
	}
	require.Greater(t, out.of("asynq-4", "redis_commands")[0], 3.0, "a task takes several")
	require.Len(t, pids, 2*2+2*3)
	for _, pid := range pids {
		require.ErrorIs(t, syscall.Kill(pid, 0), syscall.ESRCH, "process %d is left", pid)
	}
	left, err := os.ReadDir(b.dir)
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestARunWithWrongResultsHasNoFigures(t *testing.T) {
	t.Parallel()
	tests := map[string]func([]result){
		"at the position of action 1": func(r []result) { r[1], r[2] = r[2], r[1] },
		"has no answer":               func(r []result) { r[3].err = "lost" },
	}
	for want, spoil := range tests {
		b := newBench(t)
		out := &strings.Builder{}
		b.out, b.batchd = out, b.self // do not build anything
		b.scenarios = []scenario{
			{"spoiled", func(sizes) string { return "" }, func(ctx context.Context, b *bench, s *section) error {
				s.row("sound before").add("figure", "", 4711)
				return b.race(ctx, s, load{actions: 20, size: smallBody, inFlight: 4}, []entrant{{name: "liar", start: startLiar(spoil)}})
			}},
			{"sound", func(sizes) string { return "" }, func(_ context.Context, _ *bench, s *section) error {
				s.row("other").add("figure", "", 77)
				return nil
			}},
		}
		err := b.measure(t.Context())
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, "liar, round 1: wrong results")
		require.Contains(t, out.String(), "spoiled: no figures")
		require.NotContains(t, out.String(), "4711")
		require.Contains(t, out.String(), "77", "other scenarios go on")
	}
}

func TestARequestThatIsSentTwiceIsSeen(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	err := b.inWorld(t.Context(), 0, b.fsync, func(ctx context.Context, w *world) error {
		c, err := startPlain(ctx, w, load{inFlight: 2})
		require.NoError(t, err)
		require.NoError(t, w.run(ctx, c, "once", 5, smallBody))
		_, _, err = exchange(ctx, newHTTPClient(1, nil), w.targetURL, strings.NewReader("{}"))
		require.NoError(t, err)
		return w.run(ctx, c, "again", 5, smallBody)
	})
	require.EqualError(t, err, "wrong results: 10 actions made 11 requests to the target")
}

func TestSmallBatchesOfThePeerAreTimed(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	require.NoError(t, b.inWorld(t.Context(), 0, b.fsync, func(ctx context.Context, w *world) error {
		took, err := w.asynqLatency(ctx, 4, 7)
		require.Len(t, took, 7)
		require.Positive(t, took[0])
		w.sent = small * (warmBatches + 7)
		return errors.Join(err, w.checkRequests(ctx))
	}))
}

func TestFlagsThatMakeNoSenseAreRefused(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"--scenario fast":      `unknown scenario "fast"`,
		"--contender batchd,x": `unknown contender "x"`,
		"--rounds 0":           "expected at least 1",
		"--appendfsync never":  `unknown appendfsync "never"`,
		"throughput":           "there are only flags",
	} {
		_, err := parseFlags(strings.Fields(args))
		require.ErrorContains(t, err, want)
	}
	b, err := parseFlags([]string{"--short"})
	require.NoError(t, err)
	require.Equal(t, "[throughput latency slow] 1 "+strconv.Itoa(shortSizes.slow), fmt.Sprint(namesOf(b.scenarios), b.rounds, b.sizes.slow))
	b, err = parseFlags([]string{"--scenario", "idle,large"})
	require.NoError(t, err)
	require.Equal(t, []string{"large", "idle"}, namesOf(b.scenarios))
}

func namesOf(scenarios []scenario) []string {
	var names []string
	for _, s := range scenarios {
		names = append(names, s.name)
	}
	return names
}
