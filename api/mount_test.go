package api

import (
	"testing"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/api/auth"
	"github.com/batchd/batchd/api/dialect"
	"github.com/batchd/batchd/internal/audit"
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
	twice := f.mounted(&Endpoint{Path: "/healthz", Dialect: "asana"})[1]
	require.ErrorContains(t, f.mount(engine, &twice), "GET /healthz cannot be mounted", "gin refuses what the check lets pass")
}

func TestARouteWithoutAScopeIsRefused(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for _, scope := range []auth.Scope{"", "everything"} {
		require.ErrorContains(t, f.mount(gin.New(), &route{method: "GET", path: "/x", scope: scope, audit: audit.Unaudited, handle: f.list}), "unknown scope")
	}
}
