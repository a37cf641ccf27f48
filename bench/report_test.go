package main

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// sample is a section with two rounds of two contenders.
func sample() *section {
	s := &section{Scenario: "throughput", About: "20 POSTs"}
	for _, round := range [][2]float64{{2000, 900}, {4000, 1100}} {
		s.row("batchd").add("in_hand", "actions/s", round[0])
		s.row("asynq-4").add("in_hand", "actions/s", round[1])
	}
	s.goal("batchd / asynq-4", "", ratios(s.of("batchd", "in_hand"), s.of("asynq-4", "in_hand")), "≥ 2.0", "≥ 4")
	s.goal("asynq-4 / batchd", "", ratios(s.of("asynq-4", "in_hand"), s.of("batchd", "in_hand")), "≤ 0.1", "")
	s.goal("shown only", "s", []float64{1, 3}, "", "")
	s.goal("not taken part", "", ratios(s.of("batchd", "in_hand"), s.of("plain", "in_hand")), "≥ 1", "")
	s.goal("less than is counted", "", []float64{math.Inf(1), math.NaN()}, "≥ 1", "")
	s.addCommands("batchd", calls{sent: map[string]int{"evalsha": 4}, scripted: map[string]int{"get": 10}}, 2)
	return s
}

func TestTheJSONHoldsEveryRound(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "figures.json")
	require.NoError(t, (&report{Machine: machine{CPUs: 2, AppendFsync: "everysec"}, Scenarios: []*section{sample()}}).writeJSON(file))
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	var doc map[string]any
	require.NoError(t, json.Unmarshal(text, &doc))
	require.Equal(t, "everysec", doc["machine"].(map[string]any)["appendfsync"])
	scenarios, err := json.Marshal(doc["scenarios"])
	require.NoError(t, err)
	require.JSONEq(t, `[{
		"scenario": "throughput", "about": "20 POSTs",
		"rows": [
			{"contender": "batchd", "metrics": [{"name": "in_hand", "unit": "actions/s", "rounds": [2000, 4000], "median": 3000}]},
			{"contender": "asynq-4", "metrics": [{"name": "in_hand", "unit": "actions/s", "rounds": [900, 1100], "median": 1000}]}
		],
		"goals": [
			{"name": "batchd / asynq-4", "rounds": [2.2222222222222223, 3.6363636363636362], "median": 2.929292929292929, "reach": "≥ 2.0", "reached": true, "further": "≥ 4"},
			{"name": "asynq-4 / batchd", "rounds": [0.45, 0.275], "median": 0.36250000000000004, "reach": "≤ 0.1", "reached": false},
			{"name": "shown only", "unit": "s", "rounds": [1, 3], "median": 2}
		],
		"commands": [
			{"contender": "batchd", "command": "evalsha", "sent": 2, "scripted": 0},
			{"contender": "batchd", "command": "get", "sent": 0, "scripted": 5},
			{"contender": "batchd", "command": "(all)", "sent": 2, "scripted": 5}
		]
	}]`, string(scenarios))
}

func TestTheTablesSayWhatWasReached(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	require.NoError(t, sample().write(&out))
	require.Equal(t, `
throughput: 20 POSTs

 MEDIAN   UNIT       batchd  asynq-4
 in_hand  actions/s    3000     1000

 FIGURE            UNIT  ROUNDS       MEDIAN  REACH  FURTHER  REACHED
 batchd / asynq-4        2.22 3.64      2.93  ≥ 2.0      ≥ 4      yes
 asynq-4 / batchd        0.450 0.275   0.363  ≤ 0.1                no
 shown only        s     1.00 3.00      2.00

 COMMAND  batchd  in scripts
 (all)      2.00        5.00
 evalsha    2.00           0
 get           0        5.00
`, out.String())
}

func TestABoundHoldsBothEnds(t *testing.T) {
	t.Parallel()
	require.True(t, within(2, "≥ 2.0"))
	require.False(t, within(1.99, "≥ 2.0"))
	require.True(t, within(0.6, "≤ 0.6"))
	require.False(t, within(0.61, "≤ 0.6"))
	require.Panics(t, func() { within(1, "≤0.6") })
}

func TestNumbersHaveThreeDigits(t *testing.T) {
	t.Parallel()
	for value, want := range map[float64]string{
		12345.6: "12346", 100: "100", 99.94: "99.9", 3.14159: "3.14", 0.12345: "0.123", 0.012345: "0.0123", 0.00001: "0.0000", 0: "0", math.Inf(1): "-",
	} {
		require.Equal(t, want, number(value))
	}
}
