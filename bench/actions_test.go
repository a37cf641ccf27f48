package main

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEveryBodyHasItsSizeAndIsUnlikeAllOthers(t *testing.T) {
	t.Parallel()
	seen := make(map[string]bool)
	for _, tag := range []string{"a", "b"} {
		for _, body := range makeBodies(tag, 1_000, smallBody) {
			require.Len(t, body, smallBody)
			require.True(t, json.Valid(body))
			require.True(t, json.Valid(appendAction(nil, body)))
			seen[string(body)] = true
		}
	}
	require.Len(t, seen, 2_000)
}

// echoes returns the right results.
func echoes(bodies [][]byte) []result {
	results := make([]result, len(bodies))
	for i, body := range bodies {
		results[i] = result{index: i, status: 200, body: slices.Clone(body)}
	}
	return results
}

func TestWrongResultsAreSeen(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		spoil func([]result) []result
		want  string // empty if the results are correct
	}{
		{"right", func(r []result) []result { return r }, ""},
		{"missing", func(r []result) []result { return r[:9] }, "10 actions have 9 results"},
		{"missing in the middle", func(r []result) []result { return slices.Delete(r, 4, 5) }, "10 actions have 9 results"},
		{"one too many", func(r []result) []result { return append(r, r[9]) }, "10 actions have 11 results"},
		{"swapped", func(r []result) []result { r[2], r[3] = r[3], r[2]; return r }, "the result of action 3 is at the position of action 2"},
		{"bodies swapped", func(r []result) []result { r[2].body, r[3].body = r[3].body, r[2].body; return r }, "action 2 was answered with"},
		{"twice", func(r []result) []result { r[7] = r[6]; return r }, "the result of action 6 is at the position of action 7"},
		{"changed", func(r []result) []result { r[9].body[199] = ']'; return r }, "action 9 was answered with"},
		{"cut", func(r []result) []result { r[0].body = r[0].body[:100]; return r }, "action 0 was answered with"},
		{"empty", func(r []result) []result { r[0].body = nil; return r }, "action 0 was answered with"},
		{"another status", func(r []result) []result { r[5].status = 500; return r }, "action 5 was answered with status 500"},
		{"no answer", func(r []result) []result { r[5].err = "timeout"; return r }, "action 5 has no answer: timeout"},
	}
	for _, tt := range tests {
		bodies := makeBodies("test", 10, smallBody)
		err := check(bodies, tt.spoil(echoes(bodies)))
		if tt.want == "" {
			require.NoError(t, err, tt.name)
			continue
		}
		require.ErrorContains(t, err, tt.want, tt.name)
	}
}
