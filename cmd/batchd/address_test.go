package main

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCommandsSayWhichURLIsExpected(t *testing.T) {
	t.Parallel()
	for want, args := range map[string][]string{
		`--server: "localhost:21200" has no scheme: expected http://localhost:21200 or https://localhost:21200`: {"list", "--server", "localhost:21200"},
		`--server: "[::1]:80/" has no scheme`:                      {"list", "--server", "[::1]:80/"},
		`--server: the value has no scheme: expected a URL`:        {"list", "--server", "hunter2"},
		`--url: "127.0.0.1:8080/readyz" has no scheme: expected`:   {"health", "--url", "127.0.0.1:8080/readyz"},
		`the server's URL is not usable: expected a URL such as h`: {"list", "--server", "ftp://hunter2"},
	} {
		got := batchd(t, "", args...)
		require.Equal(t, exitFailure, got.code, args)
		require.Contains(t, got.stderr, want)
		require.NotContains(t, got.stderr, "hunter2")
	}
}

func TestCommandsNameTheWrongSchemeAndTheFilesOfTLS(t *testing.T) {
	t.Parallel()
	answer := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	secure, plain := httptest.NewTLSServer(answer), httptest.NewServer(answer)
	t.Cleanup(secure.Close)
	t.Cleanup(plain.Close)
	other := func(url string) string {
		scheme, rest, _ := strings.Cut(url, "://")
		return map[string]string{"http": "https", "https": "http"}[scheme] + "://" + rest
	}
	for _, row := range []struct{ url, want string }{
		{other(secure.URL), "the server expects https: use the URL https://"},
		{other(plain.URL), "the server does not speak TLS there: use an http:// URL"},
		{secure.URL, "--ca-file or BATCHD_CA_FILE"},
	} {
		for _, args := range [][]string{{"list", "--server", row.url}, {"health", "--url", row.url + "/readyz"}} {
			got := batchd(t, "", args...)
			require.Equal(t, exitFailure, got.code, args)
			require.Contains(t, got.stderr, row.want, args)
		}
	}
}

func TestARefusedCertificateNamesItsFlags(t *testing.T) {
	t.Parallel()
	wrapped := func(alert tls.AlertError) string { return withAdvice(fmt.Errorf("remote error: %w", alert)).Error() }
	require.Contains(t, wrapped(errCertificateRequired), "--cert-file and --key-file, or BATCHD_CERT_FILE")
	require.Contains(t, wrapped(48), "refuses the certificate of --cert-file")
	require.Equal(t, "remote error: "+tls.AlertError(40).Error(), wrapped(40))
}
