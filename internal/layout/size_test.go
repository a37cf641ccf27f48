package layout_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Bounds of a package under queue. queuetest, which only tests import, may have more methods.
const (
	mostLines   = 2000 // of Go that is no test
	mostMethods = 25   // of one type
)

// checkSize returns every break of a bound in the package in a directory, and its Lua files that no Go file
// beside them loads.
func checkSize(dir string) ([]string, error) {
	sources, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return nil, err
	}
	var broken []string
	lines, methods := 0, make(map[string]int)
	var loads strings.Builder
	for _, name := range sources {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		source, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		lines += strings.Count(string(source), "\n")
		loads.Write(source)
		parsed, err := parser.ParseFile(token.NewFileSet(), name, source, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		for _, decl := range parsed.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && f.Recv != nil {
				methods[receiver(f.Recv.List[0].Type)]++
			}
		}
	}
	if lines > mostLines {
		broken = append(broken, fmt.Sprintf("%s has %d lines of Go, and %d is the most: split it", dir, lines, mostLines))
	}
	for name, n := range methods {
		if n > mostMethods && filepath.Base(dir) != "queuetest" {
			broken = append(broken, fmt.Sprintf("%s: the type %s has %d methods, and %d is the most: give a part of it a type of its own", dir, name, n, mostMethods))
		}
	}
	scripts, err := filepath.Glob(filepath.Join(dir, "lua", "*.lua"))
	if err != nil {
		return nil, err
	}
	for _, script := range scripts {
		base := filepath.Base(script)
		step := fmt.Sprintf("LoadStep(luaFiles, %q", strings.TrimSuffix(base, ".lua"))
		if !strings.Contains(loads.String(), step) && !strings.Contains(loads.String(), "//go:embed lua/"+base+"\n") {
			broken = append(broken, script+" is not loaded by the package beside it: move it to the package that does, or remove it")
		}
	}
	slices.Sort(broken)
	return broken, nil
}

// receiver returns the name of the type that a method belongs to.
func receiver(expr ast.Expr) string {
	for {
		switch t := expr.(type) {
		case *ast.StarExpr:
			expr = t.X
		case *ast.IndexExpr:
			expr = t.X
		case *ast.IndexListExpr:
			expr = t.X
		case *ast.Ident:
			return t.Name
		default:
			return ""
		}
	}
}

func TestPackagesOfQueueStaySmall(t *testing.T) {
	t.Parallel()
	for _, pkg := range queueOrder {
		broken, err := checkSize(filepath.Join(root, pkg))
		require.NoError(t, err)
		require.Empty(t, broken, strings.Join(broken, "\n"))
	}
}

func TestPlantedLargePackageIsCaught(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o750))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	var one, other strings.Builder
	one.WriteString("package p\n\ntype T[K any] struct{}\n\n//go:embed lua/library.lua\nvar library string\n\nvar step = rdb.LoadStep(luaFiles, \"used\", library)\n")
	other.WriteString("package p\n")
	for i := range mostMethods {
		fmt.Fprintf(&one, "func (T[K]) M%d() {}\n", i)
	}
	write("one.go", one.String())
	write("one_test.go", "package p\n"+strings.Repeat("func (T[K]) N() {}\n", mostLines))
	write("lua/used.lua", "return 1")
	write("lua/library.lua", "local x")
	broken, err := checkSize(dir)
	require.NoError(t, err)
	require.Empty(t, broken)

	other.WriteString("func (*T[K]) Last() {}\n" + strings.Repeat("\n", mostLines))
	write("other.go", other.String())
	write("lua/stray.lua", "return 1")
	broken, err = checkSize(dir)
	require.NoError(t, err)
	require.Len(t, broken, 3)
	require.Contains(t, broken[0], "lines of Go")
	require.Contains(t, broken[1], "stray.lua is not loaded")
	require.Contains(t, broken[2], "the type T has 26 methods")
}
