package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/redistest"
)

// clients are the packages of real clients, in the versions whose requests the dialects
// accept.
var clients = []string{"asana@3.2.0", "syncano@1.0.30", "syncano2@npm:syncano@2.0.4"}

// TestRealClientsAreServed lets the SDKs of two platforms talk to the binary.
func TestRealClientsAreServed(t *testing.T) {
	t.Parallel()
	modules := installClients(t)
	t.Run("asana", func(t *testing.T) {
		t.Parallel()
		api, url := startExample(t, "asana")
		require.Equal(t, []string{
			`{"status_code":200,"headers":{"content-length":"48","content-type":"application/json"},"body":{"data":[{"gid":"1001","name":"Write it down"}]}}`,
			`{"status_code":201,"headers":{"content-length":"40","content-type":"application/json","location":"/tasks/1002"},"body":{"data":{"gid":"1002","name":"Send it"}}}`,
			`{"status_code":404,"headers":{"content-length":"23","content-type":"application/json"},"body":{"detail":"Not found."}}`,
			`{"status_code":400,"headers":{},"body":{"errors":[{"message":"not sent: a batch cannot be an action of a batch"}]}}`,
			`[{"status_code":200},{"status_code":201},{"status_code":404},{"status_code":400}]`,
			`[400,{"errors":[{"message":"/data/actions: there are more than 10 requests in the batch: at most 10 are allowed"}]}]`,
			`[401,{"errors":[{"message":"send the credential of the API in the Authorization header: it goes with every action"}]}]`,
		}, node(t, modules, "asana.js", "BATCHD="+url))
		require.True(t, api.holds("GET /api/1.0/tasks?project=55&limit=1&opt_fields=name,gid  Authorization=Bearer 0/abc"))
	})
	for _, row := range []struct{ name, version string }{{"syncano", "v1.1"}, {"syncano2", "v2"}} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			// The second batch exceeds the limit until the client has waited.
			monitor := redistest.FreeAddr(t)
			api, url := startExample(t, "syncano", "--limits-rate", "4/2s", "--monitor-listen", monitor)
			answer := `[{"code":201,"content":{"id":39,"string":"made"}},{"code":200,"content":{"id":38,"string":"new"}},{"code":204},{"code":404,"content":{"detail":"Not found."}}]`
			require.Equal(t, []string{answer, answer}, node(t, modules, "syncano.js", "BATCHD="+url, "PACKAGE="+row.name))
			path := "/" + row.version + "/instances/i/classes/class/objects/"
			require.True(t, api.holds("POST "+path+` {"string":"made",`))
			require.True(t, api.holds("DELETE "+path+"38/  X-Api-Key=key-1 X-User-Key=user-1\n"), "its body is ignored")
			require.Contains(t, get(t, "http://"+monitor+"/metrics"), `batchd_http_requests_total{class="4xx",method="POST",route="/`+row.version+`/instances/:instance/batch/"} 1`+"\n",
				"it was told to wait once, and did")
		})
	}
}

// node runs a script, and returns the lines that it prints.
func node(t *testing.T, modules, script string, env ...string) []string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "node", filepath.Join("testdata", "node", script))
	cmd.Env = append(os.Environ(), append(env, "NODE_PATH="+modules, "NO_PROXY=*")...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, "%s", stderr.String())
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}

// installClients returns the folder of the packages, which later runs reuse.
func installClients(t *testing.T) string {
	t.Helper()
	for _, tool := range []string{"node", "npm"} {
		_, err := exec.LookPath(tool)
		require.NoError(t, err, "the tests with real clients need Node.js with npm (on Debian: apt-get install nodejs npm)")
	}
	cache, err := os.UserCacheDir()
	require.NoError(t, err)
	sum := sha256.Sum256([]byte(strings.Join(clients, " ")))
	dir := filepath.Join(cache, "batchd-e2e", hex.EncodeToString(sum[:8]))
	modules := filepath.Join(dir, "node_modules")
	if _, err := os.Stat(modules); err == nil {
		return modules
	}
	// A partial installation must not be mistaken for a complete one.
	fresh := dir + "-" + strconv.Itoa(os.Getpid())
	require.NoError(t, os.MkdirAll(fresh, 0o750))
	defer os.RemoveAll(fresh)
	args := append([]string{"install", "--prefix", fresh, "--no-package-lock", "--no-save", "--ignore-scripts", "--no-audit", "--no-fund"}, clients...)
	out, err := exec.CommandContext(t.Context(), "npm", args...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	if err := os.Rename(fresh, dir); err != nil { // another run was faster
		require.DirExists(t, modules)
	}
	return modules
}

// startExample starts the binary with a file of deployments/examples, and the
// API behind it.
func startExample(t *testing.T, name string, flags ...string) (*exampleAPI, string) {
	t.Helper()
	api, target := startExampleAPI(t)
	file := filepath.Join(t.TempDir(), name+".yaml")
	require.NoError(t, writeExample(name, file, target))
	address := redistest.FreeAddr(t)
	cmd := exec.Command(filepath.Join(bin, "batchd"), append([]string{"serve", "--config", file, "--listen", address}, flags...)...)
	var log strings.Builder
	cmd.Stdout, cmd.Stderr = &log, &log
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
		require.NoError(t, cmd.Wait(), "%s", log.String())
	})
	url := "http://" + address
	require.Eventually(t, func() bool {
		res, err := http.Get(url + "/readyz")
		if err != nil {
			return false
		}
		defer res.Body.Close()
		return res.StatusCode == http.StatusOK
	}, 30*time.Second, 20*time.Millisecond)
	return api, url
}
