package api

import (
	"net/http"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"
)

func TestDescriptionIsValidWithItsExamples(t *testing.T) {
	t.Parallel()
	doc, err := openapi3.NewLoader().LoadFromData(OpenAPI)
	require.NoError(t, err)
	require.True(t, doc.IsOpenAPI31OrLater())
	require.NoError(t, doc.Validate(t.Context(), openapi3.EnableExamplesValidation()))
}

func TestDescriptionHasEveryRouteAndNoOther(t *testing.T) {
	t.Parallel()
	doc, err := openapi3.NewLoader().LoadFromData(OpenAPI)
	require.NoError(t, err)
	var described []string
	for path, item := range doc.Paths.Map() {
		for method := range item.Operations() {
			described = append(described, method+" "+path)
		}
	}
	f := setup(t)
	engine, err := f.routes()
	require.NoError(t, err)
	var routes []string
	for _, r := range engine.Routes() {
		if r.Method != http.MethodHead {
			routes = append(routes, r.Method+" "+strings.ReplaceAll(r.Path, ":id", "{id}"))
		}
	}
	require.ElementsMatch(t, routes, described)
	require.Equal(t, gin.ReleaseMode, gin.Mode())
}

func TestDescriptionNamesEveryProblem(t *testing.T) {
	t.Parallel()
	for _, k := range []kind{
		kindInvalidBatch, kindBadBody, kindBadParameter, kindUnauthorized, kindForbidden, kindCrossSite, kindHost, kindNotFound, kindNoWebhook, kindMethod, kindNotAcceptable,
		kindStalled, kindEnded, kindNotEnded, kindKeyBusy, kindUploadLost, kindTooLarge, kindHeaderTooLarge, kindUnsupportedMedia, kindKeyReused,
		kindInternal, kindBusy, kindUnavailable,
	} {
		require.Contains(t, string(OpenAPI), k.problem("").Type+"\n")
	}
}
