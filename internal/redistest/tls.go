package redistest

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Files are PEM files for TLS: an authority, and a certificate of it with its key, which servers also show to each
// other as clients.
type Files struct{ CA, Cert, Key string }

func (f Files) args(port string) []string {
	return []string{"--tls-port", port, "--tls-ca-cert-file", f.CA, "--tls-cert-file", f.Cert, "--tls-key-file", f.Key}
}

// StartTLS starts a server that speaks TLS at TLSAddr, to clients with a certificate of the authority. At Addr it
// speaks clear text, for the test. The arguments are added to its command line.
func StartTLS(tb testing.TB, files Files, args ...string) *Server {
	tb.Helper()
	port := FreePort(tb)
	s := Start(tb, append(files.args(port), args...)...)
	s.TLSAddr = net.JoinHostPort("127.0.0.1", port)
	return s
}

// StartSentinelTLS is [StartSentinel] with TLS between all: clients, the sentinel and the master.
func StartSentinelTLS(tb testing.TB, files Files) string {
	tb.Helper()
	_, port, _ := net.SplitHostPort(StartTLS(tb, files).TLSAddr) // made by StartTLS
	conf := filepath.Join(tb.TempDir(), "sentinel.conf")
	text := fmt.Sprintf("tls-replication yes\nsentinel monitor main 127.0.0.1 %s 1\nsentinel down-after-milliseconds main 2000\n", port)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		tb.Fatalf("write the sentinel's configuration: %v", err)
	}
	port, secure := FreePort(tb), FreePort(tb)
	s := &Server{tb: tb, Addr: net.JoinHostPort("127.0.0.1", port), TLSAddr: net.JoinHostPort("127.0.0.1", secure)}
	s.args = append([]string{conf, "--sentinel", "--port", port, "--bind", "127.0.0.1", "--dir", tb.TempDir()}, files.args(secure)...)
	tb.Cleanup(s.Kill)
	s.Restart()
	return "rediss+sentinel://" + s.TLSAddr + "/0?master=main"
}

// StartClusterTLS is [StartCluster] with TLS between clients and nodes, and between nodes.
func StartClusterTLS(tb testing.TB, files Files) string {
	tb.Helper()
	c := newCluster(tb, &files, false, "--cluster-node-timeout", "5000", "--tls-cluster", "yes")
	addrs := make([]string, len(c.Nodes))
	for i, s := range c.Nodes {
		addrs[i] = s.TLSAddr
	}
	return "rediss+cluster://" + strings.Join(addrs, ",")
}

// advice returns what to do about the output of a redis-server that ended, or "".
func advice(output string) string {
	if strings.Contains(output, "tls-") && strings.Contains(output, "Bad directive") {
		return "this redis-server was built without TLS, which the test needs: install one with TLS, such as Debian's, or build it with BUILD_TLS=yes\n"
	}
	return ""
}
