// Package layout_test checks the imports of each package. The linter's depguard checks
// a part of it per file. This test has all rules in one table, and every package must
// have a row.
package layout_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/batchd/batchd"

// ours lists the packages of this module that each package may import, outside of
// tests. "*" means every package.
var ours = map[string][]string{
	"internal/batch":     {},
	"internal/config":    {"internal/apikey", "internal/batch", "internal/intake", "internal/setting", "api", "api/dialect", "queue", "queue/rdb", "queue/seal", "dispatch", "worker", "api/auth", "internal/webhook", "internal/certs", "internal/audit"},
	"internal/audit":     {"internal/apikey", "internal/setting"},
	"internal/certs":     {"internal/setting"},
	"internal/crash":     {},
	"internal/apikey":    {},
	"internal/intake":    {"internal/batch", "internal/apikey"},
	"internal/attacks":   {},
	"internal/redistest": {},
	"internal/oidctest":  {},
	"internal/setting":   {},
	"internal/webhook":   {"internal/setting"},
	"api":                {"internal/batch", "internal/crash", "internal/intake", "internal/setting", "api/dialect", "api/auth", "internal/webhook", "internal/apikey", "internal/certs", "internal/audit"},
	"api/auth":           {"internal/apikey", "internal/batch", "internal/setting", "internal/certs", "api/dialect"},
	"api/dialect":        {"internal/apikey", "internal/batch", "internal/intake"},
	"queue/seal":         {"internal/setting"},
	"queue/rdb":          {"internal/batch", "internal/setting", "internal/certs"},
	"queue/keys":         {},
	"queue/owners":       {"queue/seal", "queue/rdb", "queue/keys"},
	"queue/apikeys":      {"internal/batch", "queue/rdb", "queue/seal"},
	"queue/sessions":     {"internal/batch", "queue/rdb", "queue/seal"},
	"queue/tasks":        below("queue/tasks"),
	"queue/limits":       {"internal/batch", "queue/rdb", "queue/keys"},
	"queue/quotas":       {"internal/batch", "internal/crash", "queue/rdb", "queue/keys"},
	"queue/index":        {"queue/rdb", "queue/keys"},
	"queue/batches":      below("queue/batches"),
	"queue/lists":        {"internal/batch", "queue/seal", "queue/rdb", "queue/keys", "queue/batches"},
	"queue/batcher":      {"queue/rdb", "queue/keys"},
	"queue/ledger":       below("queue/ledger"),
	"queue/fanout":       {"internal/batch", "internal/crash", "queue/rdb", "queue/keys", "queue/tasks", "queue/limits", "queue/quotas", "queue/batches"},
	"queue/throttle":     {"internal/batch", "queue/rdb", "queue/keys", "queue/tasks"},
	"queue/upload":       {"internal/batch", "internal/crash", "queue/seal", "queue/rdb", "queue/keys", "queue/tasks", "queue/limits", "queue/quotas", "queue/batches", "queue/fanout"},
	"queue/reseal":       {"queue/seal", "queue/rdb", "queue/keys", "queue/owners", "queue/apikeys", "queue/sessions", "queue/batches"},
	"queue/repair":       {"internal/batch", "internal/crash", "queue/rdb", "queue/keys", "queue/tasks", "queue/index", "queue/batches", "queue/lists", "queue/ledger", "queue/fanout"},
	"queue":              below("queue"),
	"queue/webhooks":     {"queue/rdb", "queue/tasks"},
	"queue/consumer":     below("queue/consumer"),
	"queue/queuetest":    below("queue/queuetest"),
	"dispatch":           {"internal/batch"},
	"worker":             {"internal/batch", "internal/crash", "internal/setting", "queue/consumer", "queue/tasks", "internal/webhook"},
	"client":             {},
	"cmd/batchd":         {"*"},
	"bench":              {"client"},

	"internal/certs/certstest": {},
}

// queueOrder lists the packages of queue, each of which may import those before it.
var queueOrder = []string{
	"queue/seal", "queue/rdb", "queue/keys", "queue/owners", "queue/apikeys", "queue/sessions", "queue/tasks", "queue/limits", "queue/quotas", "queue/index", "queue/batches", "queue/lists", "queue/batcher", "queue/ledger",
	"queue/fanout", "queue/throttle", "queue/upload", "queue/reseal", "queue/repair", "queue", "queue/queuetest", "queue/webhooks", "queue/consumer",
}

// below returns the packages that a package of queue may import: those before it, and those that all
// of them may import.
func below(pkg string) []string {
	return append([]string{"internal/batch", "internal/crash", "internal/setting"}, queueOrder[:slices.Index(queueOrder, pkg)]...)
}

// testOnly lists the packages of this module that only tests import.
var testOnly = []string{"internal/attacks", "internal/redistest", "internal/oidctest", "internal/certs/certstest", "queue/queuetest"}

// homes lists the packages of this module that may import each foreign module.
var homes = []struct {
	module string
	homes  []string
	why    string
}{
	{"github.com/gin-gonic/gin", []string{"api"}, "only api speaks gin"},
	{"github.com/hibiken/asynq", []string{"queue/tasks", "queue/webhooks", "queue/consumer", "queue/queuetest", "worker", "bench"}, "only queue/tasks, queue/webhooks, queue/consumer and worker speak asynq, and bench as a peer of theirs"},
	{"github.com/redis/go-redis", append([]string{"bench"}, queueOrder[1:]...), "only queue speaks Redis, and bench to measure it"},
	{"github.com/alicebob/miniredis", []string{"queue/rdb"}, "only queue/rdb embeds a store"},
	{"github.com/goccy/go-yaml", []string{"internal/config"}, "there is one file format, in internal/config"},
	{"github.com/coreos/go-oidc", []string{"api/auth"}, "only api/auth speaks OpenID"},
	{"github.com/go-jose/go-jose", []string{"api/auth"}, "only api/auth verifies tokens"},
	{"github.com/oauth2-proxy/mockoidc", []string{"internal/oidctest"}, "there is one provider for tests"},
	{"github.com/spf13/cobra", []string{"cmd/batchd"}, "commands live in cmd"},
}

// environment lists the functions that read the environment, and readers the packages
// that may call them. The crash points read it only in a test build: they are not for
// users, so they are not settings.
var (
	environment = []string{"os.Getenv", "os.LookupEnv", "os.Environ", "os.ExpandEnv", "syscall.Getenv", "syscall.Environ"}
	readers     = []string{"internal/config", "internal/crash", "cmd/batchd"}
)

// topLevel lists the allowed entries at the top of the repository, beside those that
// git ignores.
var topLevel = []string{
	"api", "bench", "client", "cmd", "deployments", "dispatch", "docs", "internal", "queue", "worker",
	"docker-compose.yml", "go.mod", "go.sum", "CHANGELOG.md", "SECURITY.md", "LICENSE", "Makefile", "README.md",
	".ci", ".dockerignore", ".editorconfig", ".git", ".gitattributes", ".github", ".gitignore", ".golangci.yml",
}

// file has the parts of a Go file that the rules check.
type file struct {
	name    string   // relative to the repository
	imports []string // import paths
	calls   []string // qualified names that are used, such as "os.Getenv"
}

func (f file) pkg() string { return path.Dir(f.name) }

// check returns every violation of a rule.
func check(f file) []string {
	var broken []string
	add := func(format string, args ...any) {
		broken = append(broken, f.name+": "+fmt.Sprintf(format, args...))
	}
	allowed, known := ours[f.pkg()]
	if !known {
		add("the package %s has no row in the import table: add one that says what it may import", f.pkg())
	}
	for _, imported := range f.imports {
		if inner, ok := strings.CutPrefix(imported, module+"/"); ok {
			switch {
			case !known: // already reported
			case slices.Contains(testOnly, inner) && !slices.Contains(testOnly, f.pkg()):
				add("%s must not import %s: it is for tests", f.pkg(), inner)
			case slices.Contains(testOnly, inner):
			case !slices.Contains(allowed, inner) && !slices.Contains(allowed, "*"):
				add("%s must not import %s: it may import %s", f.pkg(), inner, list(allowed))
			}
			continue
		}
		if f.pkg() == "internal/batch" && isForeign(imported) && imported != "golang.org/x/text/unicode/norm" {
			add("internal/batch must not import %s: the domain uses the standard library only, and its tables of Unicode", imported)
		}
		if f.pkg() == "internal/batch" && imported == "net/http" {
			add("internal/batch must not import net/http: the domain knows no transport")
		}
		for _, h := range homes {
			if (imported == h.module || strings.HasPrefix(imported, h.module+"/")) && !slices.Contains(h.homes, f.pkg()) {
				add("%s must not import %s: %s", f.pkg(), imported, h.why)
			}
		}
	}
	for _, call := range f.calls {
		if slices.Contains(environment, call) && !slices.Contains(readers, f.pkg()) {
			add("%s must not use %s: only internal/config and cmd read the environment", f.pkg(), call)
		}
	}
	return broken
}

func list(names []string) string {
	if len(names) == 0 {
		return "nothing of ours"
	}
	return strings.Join(names, ", ")
}

// isForeign reports whether an import path is outside the standard library: its
// first element is a host name.
func isForeign(imported string) bool {
	host, _, _ := strings.Cut(imported, "/")
	return strings.Contains(host, ".")
}

// checkTop returns the entries that the layout does not allow.
func checkTop(entries []string) []string {
	var broken []string
	for _, name := range entries {
		if !slices.Contains(topLevel, name) {
			broken = append(broken, name+": not in the given layout of the top level: move it into a directory of it")
		}
	}
	return broken
}

// parseFile parses the parts of a file that the rules check.
func parseFile(root, name string) (file, error) {
	parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, name), nil, parser.SkipObjectResolution)
	if err != nil {
		return file{}, err
	}
	f := file{name: filepath.ToSlash(name)}
	names := map[string]string{} // from the name in the file to the import path
	for _, spec := range parsed.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return file{}, err
		}
		f.imports = append(f.imports, imported)
		local := path.Base(imported)
		if spec.Name != nil {
			local = spec.Name.Name
		}
		names[local] = imported
	}
	ast.Inspect(parsed, func(n ast.Node) bool {
		if selector, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := selector.X.(*ast.Ident); ok && names[x.Name] != "" {
				f.calls = append(f.calls, names[x.Name]+"."+selector.Sel.Name)
			}
		}
		return true
	})
	return f, nil
}

// goFiles returns the module's Go files, without tests.
func goFiles(t *testing.T, root string) []file {
	t.Helper()
	var found []file
	require.NoError(t, filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			hidden := strings.HasPrefix(entry.Name(), ".") || entry.Name() == "testdata"
			if name != root && (hidden || exists(filepath.Join(name, "go.mod"))) {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		relative, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		f, err := parseFile(root, relative)
		found = append(found, f)
		return err
	}))
	return found
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

const root = "../.."

func TestPackagesImportOnlyWhatTheLayoutAllows(t *testing.T) {
	t.Parallel()
	files := goFiles(t, root)
	require.NotEmpty(t, files)
	var broken []string
	for _, f := range files {
		broken = append(broken, check(f)...)
	}
	require.Empty(t, broken, strings.Join(broken, "\n"))
}

func TestTopLevelHoldsOnlyWhatTheLayoutNames(t *testing.T) {
	t.Parallel()
	entries, err := os.ReadDir(root)
	require.NoError(t, err)
	var names []string
	for _, entry := range entries {
		if !ignored(t, entry.Name()) {
			names = append(names, entry.Name())
		}
	}
	require.Contains(t, names, "go.mod")
	broken := checkTop(names)
	require.Empty(t, broken, strings.Join(broken, "\n"))
}

// ignored reports whether .gitignore names a top-level entry.
func ignored(t *testing.T, name string) bool {
	t.Helper()
	source, err := os.ReadFile(filepath.Join(root, ".gitignore"))
	require.NoError(t, err)
	for pattern := range strings.Lines(string(source)) {
		if matched, err := path.Match(strings.Trim(strings.TrimSpace(pattern), "/"), name); err == nil && matched {
			return true
		}
	}
	return false
}

func TestPlantedViolationsAreCaught(t *testing.T) {
	t.Parallel()
	tests := []struct {
		file file
		want string // empty if the file follows the rules
	}{
		{file{name: "api/server.go", imports: []string{"net/http", module + "/internal/batch", "github.com/gin-gonic/gin"}}, ""},
		{file{name: "cmd/batchd/main.go", imports: []string{module + "/worker", "github.com/spf13/cobra"}, calls: []string{"os.Getenv"}}, ""},
		{file{name: "internal/config/load.go", imports: []string{"github.com/goccy/go-yaml/ast"}, calls: []string{"os.Environ"}}, ""},
		{file{name: "bench/asynq.go", imports: []string{module + "/client", "github.com/hibiken/asynq", "github.com/redis/go-redis/v9"}}, ""},
		{file{name: "bench/batchd.go", imports: []string{module + "/queue"}}, "bench must not import queue: it may import client"},
		{file{name: "api/server.go", imports: []string{module + "/queue"}}, "api must not import queue: it may import internal/batch, internal/crash, internal/intake, internal/setting, api/dialect, api/auth, internal/webhook, internal/apikey, internal/certs, internal/audit"},
		{file{name: "queue/store.go", imports: []string{module + "/dispatch"}}, "queue must not import dispatch"},
		{file{name: "queue/rdb/hook.go", imports: []string{module + "/queue/seal"}}, "queue/rdb must not import queue/seal: it may import internal/batch, internal/setting"},
		{file{name: "queue/rdb/hook.go", imports: []string{"github.com/hibiken/asynq"}}, "only queue/tasks, queue/webhooks, queue/consumer and worker speak asynq"},
		{file{name: "queue/seal/seal.go", imports: []string{module + "/queue"}}, "queue/seal must not import queue: it may import internal/setting"},
		{file{name: "queue/seal/seal.go", imports: []string{"github.com/redis/go-redis/v9"}}, "only queue speaks Redis"},
		{file{name: "dispatch/client.go", imports: []string{module + "/internal/config"}}, "dispatch must not import internal/config"},
		{file{name: "worker/run.go", imports: []string{module + "/dispatch"}}, "worker must not import dispatch"},
		{file{name: "client/client.go", imports: []string{module + "/internal/batch"}}, "client must not import internal/batch: it may import nothing of ours"},
		{file{name: "internal/batch/batch.go", imports: []string{module + "/queue"}}, "it may import nothing of ours"},
		{file{name: "internal/batch/batch.go", imports: []string{"github.com/google/uuid"}}, "the domain uses the standard library only, and its tables of Unicode"},
		{file{name: "internal/batch/batch.go", imports: []string{"net/http"}}, "the domain knows no transport"},
		{file{name: "worker/run.go", imports: []string{"github.com/gin-gonic/gin"}}, "only api speaks gin"},
		{file{name: "api/dialect/asana.go", imports: []string{"github.com/gin-gonic/gin"}}, "only api speaks gin"},
		{file{name: "dispatch/client.go", imports: []string{"github.com/hibiken/asynq"}}, "only queue/tasks, queue/webhooks, queue/consumer and worker speak asynq"},
		{file{name: "worker/run.go", imports: []string{"github.com/redis/go-redis/v9"}}, "only queue speaks Redis"},
		{file{name: "cmd/batchd/serve.go", imports: []string{"github.com/alicebob/miniredis/v2"}}, "only queue/rdb embeds a store"},
		{file{name: "queue/connect.go", calls: []string{"os.Getenv"}}, "only internal/config and cmd read the environment"},
		{file{name: "cmd/batchd/serve.go", imports: []string{module + "/internal/redistest"}}, "it is for tests"},
		{file{name: "internal/stray/stray.go"}, "has no row in the import table"},
	}
	for _, tt := range tests {
		broken := check(tt.file)
		if tt.want == "" {
			require.Empty(t, broken)
			continue
		}
		require.Len(t, broken, 1, tt.file.name)
		require.Contains(t, broken[0], tt.want)
	}
	require.Len(t, checkTop([]string{"api", "scripts", "go.mod"}), 1)
}

func TestPlantedFileIsReadWithItsImportsAndCalls(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	source := "package queue\n\nimport (\n\tenv \"os\"\n\n\t_ \"" + module + "/api\"\n)\n\nvar redis = env.Getenv(\"REDIS\")\n"
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "queue", "testdata"), 0o750))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "queue", "connect.go"), []byte(source), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "queue", "connect_test.go"), []byte(source), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "queue", "testdata", "x.go"), []byte("no Go"), 0o600))

	files := goFiles(t, dir)
	require.Len(t, files, 1)
	require.Equal(t, "queue/connect.go", files[0].name)
	require.Len(t, check(files[0]), 2)
}
