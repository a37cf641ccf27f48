package faults

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/redistest"
)

// buildToxiproxy builds the server once, in the version that internal/tools requires.
var buildToxiproxy = sync.OnceValues(func() (string, error) {
	file := filepath.Join(filepath.Dir(binary), "toxiproxy")
	out, err := exec.Command("go", "build", "-modfile=../tools/go.mod", "-o", file, "github.com/Shopify/toxiproxy/v2/cmd/server").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build toxiproxy: %w\n%s", err, out)
	}
	return file, nil
})

// toxiproxy is a running toxiproxy, in which every link of a world can have its
// own proxy.
type toxiproxy struct {
	t   *testing.T
	api string
}

func startToxiproxy(t *testing.T) *toxiproxy {
	t.Helper()
	file, err := buildToxiproxy()
	require.NoError(t, err)
	addr := redistest.FreeAddr(t)
	host, port, err := net.SplitHostPort(addr)
	require.NoError(t, err)
	cmd := exec.Command(file, "-host", host, "-port", port)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	})
	x := &toxiproxy{t: t, api: "http://" + addr}
	eventually(t, time.Minute, func() bool {
		resp, err := http.Get(x.api + "/version")
		if err != nil {
			return false
		}
		return resp.Body.Close() == nil && resp.StatusCode == http.StatusOK
	}, "toxiproxy does not come up")
	return x
}

// call makes a call of toxiproxy's own API.
func (x *toxiproxy) call(method, path string, body, answer any) {
	x.t.Helper()
	encoded, err := json.Marshal(body)
	require.NoError(x.t, err)
	req, err := http.NewRequest(method, x.api+path, bytes.NewReader(encoded))
	require.NoError(x.t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(x.t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(x.t, err)
	require.Less(x.t, resp.StatusCode, 300, "toxiproxy: %s %s: %s", method, path, text)
	if answer != nil {
		require.NoError(x.t, json.Unmarshal(text, answer), "%s", text)
	}
}

// link is a proxy in front of one server.
type link struct {
	x          *toxiproxy
	name, addr string
}

// to puts a proxy in front of a server.
func (x *toxiproxy) to(name, upstream string) *link {
	x.t.Helper()
	var made struct {
		Listen string `json:"listen"`
	}
	x.call(http.MethodPost, "/proxies", map[string]any{
		"name": name, "listen": "127.0.0.1:0", "upstream": strings.TrimPrefix(upstream, "http://"), "enabled": true,
	}, &made)
	return &link{x: x, name: name, addr: made.Listen}
}

// toxic is a fault of a link. The names and attributes are toxiproxy's.
type toxic struct {
	Type       string         `json:"type"`
	Stream     string         `json:"stream,omitempty"` // "downstream", which is towards the client, or "upstream"
	Toxicity   float64        `json:"toxicity"`         // the share of the affected connections; 0 means all
	Attributes map[string]int `json:"attributes"`
}

// poison applies a toxic until it is cured.
func (l *link) poison(tox toxic) {
	l.x.t.Helper()
	if tox.Toxicity == 0 {
		tox.Toxicity = 1
	}
	l.x.call(http.MethodPost, "/proxies/"+l.name+"/toxics", tox, nil)
}

// cure removes every toxic of the link.
func (l *link) cure() {
	l.x.t.Helper()
	var now struct {
		Toxics []struct {
			Name string `json:"name"`
		} `json:"toxics"`
	}
	l.x.call(http.MethodGet, "/proxies/"+l.name, nil, &now)
	for _, tox := range now.Toxics {
		l.x.call(http.MethodDelete, "/proxies/"+l.name+"/toxics/"+tox.Name, nil, nil)
	}
}
