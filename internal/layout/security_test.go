package layout_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var (
	quoted = regexp.MustCompile("`([^`]+)`")
	isTest = regexp.MustCompile(`^(Test|Fuzz)\w+$`)
)

// untrue returns the rows of the threats in a text that name no test, a test that does not exist, or a
// setting that the commented configuration does not have.
func untrue(text string, tests map[string]bool, configuration string) (faults []string) {
	_, threats, _ := strings.Cut(text, "## Threats")
	threats, _, _ = strings.Cut(threats, "\n## ")
	rows := 0
	for row := range strings.Lines(threats) {
		cells := strings.Split(row, " | ")
		if !strings.HasPrefix(row, "| ") || strings.HasPrefix(row, "| threat |") {
			continue
		}
		rows++
		if len(cells) != 4 {
			faults = append(faults, "not four cells: "+row)
			continue
		}
		named := quoted.FindAllStringSubmatch(cells[3], -1)
		if len(named) == 0 {
			faults = append(faults, "no test: "+row)
		}
		for _, name := range named {
			if isTest.MatchString(name[1]) && !tests[name[1]] {
				faults = append(faults, "no such test: "+name[1])
			}
		}
		for _, name := range quoted.FindAllStringSubmatch(cells[2], -1) {
			last := name[1][strings.LastIndex(name[1], ".")+1:]
			if !regexp.MustCompile(`(?m)^[ #-]*([\w.]+: *\{?)?` + last + `:`).MatchString(configuration) {
				faults = append(faults, "no such setting: "+name[1])
			}
		}
	}
	if rows < 5 {
		faults = append(faults, "no table of threats")
	}
	return faults
}

func TestEachThreatNamesASettingAndATestThatExist(t *testing.T) {
	t.Parallel()
	tests := map[string]bool{}
	declared := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	require.NoError(t, filepath.WalkDir(root, func(name string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(name, "_test.go") {
			return err
		}
		source, err := os.ReadFile(name) //nolint:gosec // the file is the test's own
		for _, m := range declared.FindAllSubmatch(source, -1) {
			tests[string(m[1])] = true
		}
		return err
	}))
	configuration, err := os.ReadFile(filepath.Join(root, "deployments", "batchd.yaml"))
	require.NoError(t, err)
	text, err := os.ReadFile(filepath.Join(root, "docs", "SECURITY.md"))
	require.NoError(t, err)
	require.Empty(t, untrue(string(text), tests, string(configuration)))

	const planted = "## Threats\n| threat | defence | setting | test |\n| a | b | `no.such` | `TestNoSuch` |\n| a | b | c | d |\n| a |\n## Next\n"
	require.Len(t, untrue(planted, tests, string(configuration)), 5)
}
