package layout_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// make fuzz runs the fuzzers in a list, which has all of them.
func TestEveryFuzzerIsListed(t *testing.T) {
	t.Parallel()
	fuzzer := regexp.MustCompile(`(?m)^func (Fuzz\w+)\(`)
	var found []string
	require.NoError(t, filepath.WalkDir(root, func(name string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(name, "_test.go") {
			return err
		}
		source, err := os.ReadFile(name) //nolint:gosec // the file is the test's own
		relative, _ := filepath.Rel(root, filepath.Dir(name))
		for _, m := range fuzzer.FindAllSubmatch(source, -1) {
			found = append(found, "./"+filepath.ToSlash(relative)+" "+string(m[1]))
		}
		return err
	}))
	slices.Sort(found)
	list, err := os.ReadFile(filepath.Join(root, ".ci/fuzzers"))
	require.NoError(t, err)
	require.Equal(t, strings.Join(found, "\n")+"\n", string(list), "list each fuzzer in .ci/fuzzers")
	require.Greater(t, len(found), 40)
}
