package main

import (
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// plainModel has no costs except the target's time.
func plainModel() model {
	return model{actions: 2000, workers: 2, slots: 10, target: fixed(20 * time.Millisecond), cores: 2}
}

func TestAModelIsAsFastAsItsNarrowestPart(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		change func(*model)
		rate   float64
	}{
		"places": {func(*model) {}, 2 * 10 / 0.020},
		"the target's rate, after what may be used at once": {func(m *model) { m.rate = 100 }, 2000 / ((2000.0-10)/100 + 0.020)},
		"cores": {func(m *model) { m.costs.run, m.costs.fanOut = 9*time.Millisecond, time.Millisecond }, 2 / 0.010},
		"Redis": {func(m *model) {
			m.cores, m.costs.run, m.costs.redis = 16, 8*time.Millisecond, 6*time.Millisecond
		}, 1 / 0.006},
		"submission":                             {func(m *model) { m.costs.submit = 50 * time.Millisecond }, 1 / 0.050},
		"exchanges":                              {func(m *model) { m.workers, m.slots, m.costs.exchange = 1, 1, 10*time.Millisecond }, 1 / 0.040},
		"places, with tasks taken ahead of them": {func(m *model) { m.workers, m.costs.exchange = 1, 3*time.Millisecond }, 10 / 0.023},
	}
	for name, test := range tests {
		m := plainModel()
		test.change(&m)
		require.InEpsilon(t, test.rate, m.forecast().rate, 0.05, name)
	}
}

func TestAnActionWaitsForThoseBeforeIt(t *testing.T) {
	t.Parallel()
	f := plainModel().forecast() // in rounds of 20, of 20 ms each, 100 times
	require.InDelta(t, 1010, f.mean, 25)
	require.InDelta(t, 1000, f.p50, 25)
	require.InDelta(t, 1980, f.p99, 40)
}

func TestAForecastIsTheSameForTheSameSeed(t *testing.T) {
	t.Parallel()
	m := plainModel()
	m.actions = 20_000
	m.target = must(t)(parseLatency("exp:20ms"))
	m.costs = costs{submit: time.Microsecond, fanOut: 7 * time.Microsecond, run: 60 * time.Microsecond, redis: 20 * time.Microsecond, exchange: 80 * time.Microsecond}
	first := m.forecast()
	require.Equal(t, first, m.forecast())
	m.seed++
	require.NotEqual(t, first, m.forecast())
	require.InEpsilon(t, 1000, first.rate, 0.1, "a place that is free does not wait for the others")
}

func TestAnExchangeIsReckonedFromWhatOnePlaceDoes(t *testing.T) {
	t.Parallel()
	c := costs{submit: 5 * time.Microsecond, fanOut: 20 * time.Microsecond, run: 120 * time.Microsecond, redis: 50 * time.Microsecond}
	for _, want := range []time.Duration{0, 100 * time.Microsecond, 700 * time.Microsecond, 20 * time.Millisecond} {
		c.exchange = want
		m := model{actions: alonePlace, workers: 1, slots: 1, target: fixed(0), cores: runtime.NumCPU(), costs: c, seed: 1}
		require.InDelta(t, want, c.exchangeFor(m.forecast().rate), float64(2*time.Microsecond+want/50), want)
	}
}

func TestLatencies(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ p50, p99 float64 }{
		"20ms":                 {20, 20},
		"exp:20ms":             {13.86, 92.1}, // ln 2 and ln 100 times the mean
		"lognormal:20ms,100ms": {20, 100},
	}
	for text, want := range tests {
		// With all of them at once, each ends after its answer time.
		m := model{actions: 20_000, workers: 1, slots: 20_000, cores: 1, target: must(t)(parseLatency(text))}
		f := m.forecast()
		require.InEpsilon(t, want.p50, f.p50, 0.05, text)
		require.InEpsilon(t, want.p99, f.p99, 0.1, text)
	}
	for _, text := range []string{"", "20", "-1ms", "exp:", "exp:1ms,2ms", "lognormal:20ms", "lognormal:0s,1s", "lognormal:2s,1s", "uniform:1s"} {
		_, err := parseLatency(text)
		require.Error(t, err, text)
	}
}

func must(t *testing.T) func(answerTime, error) answerTime {
	t.Helper()
	return func(a answerTime, err error) answerTime {
		require.NoError(t, err)
		return a
	}
}

func TestWhatElseRunsMakesCostsHigher(t *testing.T) {
	t.Parallel()
	c := costs{submit: 1, fanOut: 20, run: 60, redis: 10, exchange: 5}
	require.Equal(t, costs{submit: 1, fanOut: 40, run: 120, redis: 20, exchange: 5}, c.beside(0.5))
}

func TestWaitsAreCountedToTheEndOfTheLastAttempt(t *testing.T) {
	t.Parallel()
	began := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	waits, err := waitsIn([]byte(`{"id":"0","index":0,"outcome":"succeeded","status":200,"attempts":1,"started_at":"2026-01-01T00:00:00.5Z","duration_ms":20}
{"id":"1","index":1,"outcome":"succeeded","status":200,"attempts":1,"started_at":"2026-01-01T00:00:01Z","duration_ms":0}
`), began)
	require.NoError(t, err)
	require.InDeltaSlice(t, []float64{521, 1001}, waits, 1e-9)
}

func TestPredict(t *testing.T) {
	t.Parallel()
	out := &strings.Builder{}
	require.NoError(t, runPredict([]string{"--workers", "2", "--concurrency", "16", "--rate", "200", "--actions", "1000"}, out))
	require.Regexp(t, `^20\d actions/s; an action has ended after 2\d{3} ms \(mean\), 2\d{3} ms \(p50\), 4\d{3} ms \(p99\)\n$`, out.String())
	require.ErrorContains(t, runPredict([]string{"--workers", "0"}, out), "at least 1")
	require.ErrorContains(t, runPredict([]string{"--latency", "soon"}, out), `"soon" is no duration`)
	require.ErrorContains(t, runPredict([]string{"soon"}, out), "only flags")
}
