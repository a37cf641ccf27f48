package api

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/api/dialect"
)

func TestEndpointsThatCannotBeAreRefused(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		endpoints []Endpoint
		want      string
	}{
		{[]Endpoint{{Path: "/a", Dialect: "esperanto", Target: "crm"}}, `endpoints[0].dialect: unknown value "esperanto": expected native, asana, requests, syncano or primaerp`},
		{[]Endpoint{{Path: "/instances/batch", Dialect: "syncano", Target: "crm"}}, "endpoints[0].path: the dialect syncano needs the parameter :instance in its path"},
		{[]Endpoint{{Path: "/a/", Dialect: "asana", Target: "crm"}, {Path: "/a", Target: "crm"}}, `endpoints[1].path: the path "/a" is taken by endpoints[0].path`},
		{[]Endpoint{{Path: "/healthz", Dialect: "asana", Target: "crm"}}, `endpoints[0].path: the path "/healthz" belongs to the built-in /healthz`},
	} {
		_, err := New(Config{Store: newFakeStore(), Targets: []string{"crm"}, Endpoints: row.endpoints})
		require.ErrorContains(t, err, row.want)
	}
	require.ElementsMatch(t, []string{"asana", "requests", "syncano", "primaerp"}, dialect.Names())
}

func TestBuiltInRoutesAreKept(t *testing.T) {
	t.Parallel()
	f := setup(t)
	engine, err := f.routes()
	require.NoError(t, err)
	for _, route := range engine.Routes() {
		require.ErrorContains(t, checkRoute(route.Path), "belongs to the built-in", route.Path)
	}
	require.Error(t, f.mount(engine, engine, &Endpoint{Path: "/healthz", Dialect: "asana"}), "gin refuses what the check lets pass")
}
