package config

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/api"
	"github.com/batchd/batchd/internal/batch"
)

const reference = "../../deployments/batchd.yaml"

// everySetting returns the default of every setting, in the form of the reference, by
// its path. Items of a list have the path of the list and "[]".
func everySetting() map[string]string {
	defaults := map[string]string{}
	var walk func(path string, v reflect.Value)
	walk = func(path string, v reflect.Value) {
		switch v.Interface().(type) {
		case []batch.Target:
			walk(path+"[]", reflect.ValueOf(batch.Target{}.WithDefaults()))
			return
		case []api.Endpoint:
			limits := api.DefaultLimits()
			walk(path+"[]", reflect.ValueOf(api.Endpoint{}.WithDefaults(&limits, []string{DefaultTarget})))
			return
		case *batch.Transactions:
			walk(path, reflect.ValueOf(batch.Transactions{}))
			return
		case *batch.Call:
			walk(path, reflect.ValueOf(batch.Call{}))
			return
		}
		if isMapping(v.Type()) {
			for _, f := range fieldsOf(v) {
				walk(join(path, f.key), f.value)
			}
			return
		}
		text := written(path, v)
		if text == "" || text == "[]" {
			text = "none"
		}
		defaults[path] = text
	}
	walk("", reflect.ValueOf(Default()).Elem())
	return defaults
}

// shown is a setting in a reference.
type shown struct {
	line    int
	value   string
	comment string // after the value
}

var (
	keyLine = regexp.MustCompile(`^( *)(- )?([a-z_]+):(?: +(.*?))??(?: +# (.*))?$`)
	comment = regexp.MustCompile(`^( *)# ?(.*)$`)
)

// settingsIn returns the known settings in a reference, including those that are
// commented out, and the file without these comments.
func settingsIn(t *testing.T, source string, known map[string]string) (map[string]shown, string) {
	t.Helper()
	type section struct {
		column int
		path   string
	}
	var sections []section
	found := map[string]shown{}
	var whole strings.Builder
	for i, line := range strings.Split(source, "\n") {
		bare := line
		if m := comment.FindStringSubmatch(line); m != nil {
			bare = m[1] + m[2]
		}
		m := keyLine.FindStringSubmatch(bare)
		if m == nil {
			if bare == line {
				whole.WriteString(line + "\n")
			}
			continue
		}
		column := len(m[1]) + len(m[2])
		for len(sections) > 0 && sections[len(sections)-1].column >= column {
			sections = sections[:len(sections)-1]
		}
		path := m[3]
		if len(sections) > 0 {
			path = join(sections[len(sections)-1].path, m[3])
		}
		isSection := slices.ContainsFunc(slices.Collect(maps.Keys(known)), func(k string) bool {
			return strings.HasPrefix(k, path+".") || strings.HasPrefix(k, path+"[]")
		})
		_, isSetting := known[path]
		switch {
		case isSection:
			if _, list := known[path+"[].name"]; list || path == "endpoints" {
				path += "[]"
			}
			sections = append(sections, section{column, path})
		case isSetting:
			require.NotContains(t, found, path, "line %d shows it once more", i+1)
			found[path] = shown{i + 1, strings.Trim(m[4], `"`), m[5]}
		case bare != line:
			continue // prose
		}
		whole.WriteString(bare + "\n")
	}
	return found, whole.String()
}

func checkReference(t *testing.T, source string) (faults []string, whole string) {
	t.Helper()
	known := everySetting()
	found, whole := settingsIn(t, source, known)
	for _, path := range slices.Sorted(maps.Keys(known)) {
		is, ok := found[path]
		if !ok {
			faults = append(faults, path+" is missing")
			continue
		}
		says, named := strings.CutPrefix(is.comment, "default: ")
		switch says, _, _ = strings.Cut(says, ", "); {
		case !named && is.comment == "required":
			says = "none"
		case !named:
			says = is.value
		}
		if want := strings.Trim(known[path], `"`); says != want {
			faults = append(faults, fmt.Sprintf("line %d: the default of %s is %s, not %s", is.line, path, want, says))
		}
	}
	return faults, whole
}

func TestReferenceListsEverySettingWithItsDefault(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile(reference)
	require.NoError(t, err)
	faults, whole := checkReference(t, string(source))
	require.Empty(t, faults, strings.Join(faults, "\n"))

	// The commented examples can be uncommented, with three exceptions: keys and secrets
	// are not examples, and a value is either in a header or at a pointer. TLS with Redis
	// needs a URL that asks for it.
	whole = strings.Replace(whole, "url: redis://", "url: rediss://", 1)
	whole = regexp.MustCompile(`(?m)^ +(header: X-Tx # default: none, or instead.*|keys: .*|file: .*|keys_file: .*|ca_file: .*|(cert|key)_file: redis-.*|(previous_)?secret: .*|password: .*)\n`).ReplaceAllString(whole, "")
	file := filepath.Join(t.TempDir(), "batchd.yaml")
	require.NoError(t, os.WriteFile(file, []byte(whole), 0o600))
	c, err := Load(Options{File: file})
	require.NoError(t, err)
	require.Len(t, c.Endpoints, 1)
	require.Len(t, c.Targets[0].Allow, 1)
	require.Equal(t, "DELETE", c.Targets[0].Transactions.Rollback.Method)
	require.Equal(t, &batch.Call{Method: "GET", Path: "/me"}, c.Targets[0].Verify)
}

func TestReferenceThatIsWrongIsNoticed(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile(reference)
	require.NoError(t, err)
	for name, test := range map[string]struct{ old, replacement, want string }{
		"another default":             {"#   max_body: 256MiB", "#   max_body: 128MiB", "the default of limits.max_body is 256MiB, not 128MiB"},
		"another default, explained":  {"8081 # default: 127.0.0.1:8081", "8081 # default: 0.0.0.0:8081", "the default of worker.listen is 127.0.0.1:8081, not 0.0.0.0:8081"},
		"an example for a default":    {"# rate: 10/s # default: none", "# rate: 10/s", "the default of targets[].rate is none, not 10/s"},
		"a setting that is missing":   {"    # http_client: auto\n", "", "targets[].http_client is missing"},
		"a setting of a list's item":  {"#     wait: 0s", "#     wait: 1s", "the default of endpoints[].wait is 0s, not 1s"},
		"an example without a marker": {"url: redis://redis:6379/0 # default: embedded", "url: redis://redis:6379/0", "the default of redis.url is embedded, not redis://redis:6379/0"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Contains(t, string(source), test.old)
			faults, _ := checkReference(t, strings.Replace(string(source), test.old, test.replacement, 1))
			require.Len(t, faults, 1, "%s", faults)
			require.Contains(t, faults[0], test.want)
		})
	}
}
