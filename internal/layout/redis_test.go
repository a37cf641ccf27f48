package layout_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// clients are the types of go-redis that send commands.
var clients = []string{"UniversalClient", "Client", "ClusterClient", "Ring", "Conn", "Cmdable", "StatefulCmdable", "Pipeliner", "Scripter"}

// embeddedClients returns the names of struct types in a file that embed a client of Redis.
func embeddedClients(f *ast.File) (found []string) {
	ast.Inspect(f, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok {
			return true
		}
		structure, ok := spec.Type.(*ast.StructType)
		if !ok {
			return true
		}
		for _, field := range structure.Fields.List {
			typ := field.Type
			if star, ok := typ.(*ast.StarExpr); ok {
				typ = star.X
			}
			if selector, ok := typ.(*ast.SelectorExpr); ok && len(field.Names) == 0 {
				if pkg, ok := selector.X.(*ast.Ident); ok && pkg.Name == "redis" && slices.Contains(clients, selector.Sel.Name) {
					found = append(found, spec.Name.Name)
				}
			}
		}
		return true
	})
	return found
}

// asynq gets the client from go-redis. A type that embeds a client could be passed to asynq
// instead, and could answer in place of Redis.
func TestNoTypePosesAsARedisClient(t *testing.T) {
	t.Parallel()
	probe, err := parser.ParseFile(token.NewFileSet(), "probe.go", "package p\ntype a struct{ redis.UniversalClient }\ntype b struct{ *redis.Client }\ntype c struct{ rdb redis.UniversalClient }\ntype d struct{ redis.Cmder }", 0)
	require.NoError(t, err)
	require.Equal(t, []string{"a", "b"}, embeddedClients(probe))
	files, err := filepath.Glob("../../queue/*.go")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	rooms, err := filepath.Glob("../../queue/*/*.go")
	require.NoError(t, err)
	require.NotEmpty(t, rooms)
	files = append(files, rooms...)
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		require.NoError(t, err)
		require.Empty(t, embeddedClients(f), name)
	}
}
