package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMisspelledCommandsAreErrors(t *testing.T) {
	t.Parallel()
	for want, args := range map[string][]string{
		`batchd: unknown command "rotat" for "batchd seal": did you mean rotate?`:                         {"seal", "rotat"},
		`batchd: unknown command "creat" for "batchd keys": did you mean create?`:                         {"keys", "creat", "x"},
		`batchd: unknown command "lst" for "batchd keys": did you mean list?`:                             {"keys", "lst", "--config", "f"},
		`batchd: unknown command "chek" for "batchd config": did you mean check?`:                         {"config", "chek", "f"},
		`batchd: unknown command "key" for "batchd": did you mean keys?`:                                  {"key", "list"},
		`batchd: unknown command "sumbit" for "batchd": did you mean submit?`:                             {"sumbit"},
		`batchd: unknown command "keyz" for "batchd": did you mean keys?`:                                 {"help", "keyz"},
		`batchd: unknown command "creat" for "batchd keys": did you mean create?` + "\n":                  {"help", "keys", "creat"},
		`batchd: unknown command "bsh" for "batchd completion": did you mean bash`:                        {"completion", "bsh"},
		`batchd: unknown command "everything" for "batchd keys": expected create, list, revoke or rotate`: {"keys", "everything"},
		`batchd: unknown command "xyzzy" for "batchd": batchd --help lists the commands`:                  {"xyzzy"},
		`batchd: unknown flag: --everything`:                                                              {"keys", "--everything"},
	} {
		got := batchd(t, "", args...)
		require.Equal(t, exitFailure, got.code, "%q", args)
		require.Empty(t, got.stdout, "%q", args)
		require.Contains(t, got.stderr, want, "%q", args)
		require.Equal(t, 1, strings.Count(got.stderr, "\n"), got.stderr)
	}
	for _, args := range [][]string{{}, {"keys"}, {"seal"}, {"config"}, {"help"}, {"help", "keys"}, {"help", "keys", "create"}, {"keys", "--help"}, {"completion"}, {"completion", "bash"}} {
		got := batchd(t, "", args...)
		require.Equal(t, exitOK, got.code, "%q: %s", args, got.stderr)
		require.NotEmpty(t, got.stdout)
	}
}
