package layout_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// named matches the files in a document, and the functions in parentheses after them.
var named = regexp.MustCompile("`(\\w[\\w./-]*\\.(?:go|lua|yaml))`(?: \\(((?:`\\w+`(?:, )?)+)\\))?")

// missing returns the files in a text that do not exist, and the functions that are not in them. A
// name without the whole path matches any file whose path ends with it.
func missing(text string, files []string) (faults []string) {
	for _, m := range named.FindAllStringSubmatch(text, -1) {
		var found []string
		for _, file := range files {
			if file == m[1] || strings.HasSuffix(file, "/"+m[1]) {
				found = append(found, file)
			}
		}
		if len(found) == 0 {
			faults = append(faults, m[1])
			continue
		}
		for _, function := range strings.FieldsFunc(m[2], func(r rune) bool { return r == '`' || r == ',' || r == ' ' }) {
			source, err := os.ReadFile(filepath.Join(root, found[0]))
			if err != nil || !regexp.MustCompile(`(?m)^func (?:\([^)]*\) )?`+function+`\b`).Match(source) {
				faults = append(faults, m[1]+": "+function)
			}
		}
	}
	return faults
}

func TestDocumentsNameFilesAndFunctionsThatExist(t *testing.T) {
	t.Parallel()
	var files, documents []string
	require.NoError(t, filepath.WalkDir(root, func(name string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && strings.HasPrefix(entry.Name(), ".") && name != root {
			return filepath.SkipDir
		}
		relative, err := filepath.Rel(root, name)
		files = append(files, filepath.ToSlash(relative))
		if strings.HasSuffix(name, ".md") && entry.Name() != "CHANGELOG.md" && entry.Name() != "performance-log.md" {
			documents = append(documents, name)
		}
		return err
	}))
	require.Greater(t, len(documents), 5)
	for _, name := range documents {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		require.Empty(t, missing(string(text), files), name)
	}
	require.Equal(t, []string{"no.go", "layout_test.go: nobody"}, missing("`no.go`, `layout_test.go` (`check`, `nobody`)", files))
}
