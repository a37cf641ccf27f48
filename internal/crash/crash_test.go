package crash_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/crash"
)

const (
	root        = "../.."
	packagePath = "github.com/batchd/batchd/internal/crash"
)

// Every declared point is listed, has its own name, and is in the code exactly once;
// every point in the code is declared.
func TestEachPointStandsInTheCodeOnce(t *testing.T) {
	t.Parallel()
	declared := declaredPoints(t)
	listed := map[crash.Point]bool{}
	for _, p := range crash.Points() {
		require.False(t, listed[p], "%s is listed twice", p)
		listed[p] = true
	}
	require.Len(t, listed, len(declared), "a point is declared and not listed")
	placed := map[string][]string{}
	require.NoError(t, filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && name != root && strings.HasPrefix(entry.Name(), "."):
			return filepath.SkipDir
		case entry.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go"):
			return nil
		}
		for _, at := range placedIn(t, name) {
			placed[at] = append(placed[at], name)
		}
		return nil
	}))
	for name, point := range declared {
		require.True(t, listed[point], "%s is not listed", name)
		require.Len(t, placed[name], 1, "crash.At(crash.%s) stands in %v", name, placed[name])
	}
	for name, where := range placed {
		require.Contains(t, declared, name, "in %v", where)
	}
}

// declaredPoints returns the constants of crash.go by name.
func declaredPoints(t *testing.T) map[string]crash.Point {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), "crash.go", nil, parser.SkipObjectResolution)
	require.NoError(t, err)
	found := map[string]crash.Point{}
	ast.Inspect(parsed, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		value, ok := spec.Values[0].(*ast.BasicLit)
		require.True(t, ok, "%s is no constant", spec.Names[0].Name)
		text, err := strconv.Unquote(value.Value)
		require.NoError(t, err)
		found[spec.Names[0].Name] = crash.Point(text)
		return true
	})
	require.NotEmpty(t, found)
	return found
}

// placedIn returns the arguments of the calls of crash.At in a file.
func placedIn(t *testing.T, name string) []string {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
	require.NoError(t, err)
	imported := false
	for _, spec := range parsed.Imports {
		imported = imported || spec.Path.Value == strconv.Quote(packagePath)
	}
	if !imported {
		return nil
	}
	var found []string
	ast.Inspect(parsed, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok || qualified(call.Fun) != "crash.At" {
			return true
		}
		point, ok := strings.CutPrefix(qualified(call.Args[0]), "crash.")
		require.True(t, ok, "%s: crash.At takes a point by its name", name)
		found = append(found, point)
		return true
	})
	return found
}

func qualified(e ast.Expr) string {
	if s, ok := e.(*ast.SelectorExpr); ok {
		if x, ok := s.X.(*ast.Ident); ok {
			return x.Name + "." + s.Sel.Name
		}
	}
	return ""
}
