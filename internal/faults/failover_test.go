package faults

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/redistest"
)

// A master is killed under load, and Sentinel makes its replica the master. A
// replica may lack the last writes, so a batch may be gone. What is there is whole.
func TestAfterAFailoverABatchIsWholeOrGone(t *testing.T) {
	if !long {
		t.Skip("takes minutes: run it with -tags faults")
	}
	for round := range 3 {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			master, url := startPair(t)
			w := newWorldOn(t, url)
			w.lossy = true
			w.target.delay = 5 * time.Millisecond
			w.startAPI()
			w.startWorker("w0")
			w.startWorker("w1")
			load := w.startLoad(3, 20)
			time.Sleep(5 * time.Second)
			master.Kill()
			killed := time.Now()
			eventually(t, time.Minute, func() bool { return load.ackedAfter(killed.Add(500 * time.Millisecond)) }, "nothing is accepted after the failover")
			accepted := time.Since(killed)
			time.Sleep(3 * time.Second)
			batches := load.stop()
			kept := w.kept(batches)
			w.settle(150*time.Second, kept...)
			ended := time.Since(killed)
			sum := w.verifyAll(kept)
			figure(t, "failover: batches=%d gone=%d outcomes=%v POSTs sent twice=%d, accepted again after %.1fs, last batch ended after %.1fs",
				len(batches), len(batches)-len(kept), sum, w.sentTwice(batches), accepted.Seconds(), ended.Seconds())
		})
	}
}

// startPair starts a master, a replica and a sentinel, and returns the master
// and the URL.
func startPair(t *testing.T) (*redistest.Server, string) {
	t.Helper()
	master := redistest.Start(t, append(durable, "--repl-diskless-sync-delay", "0")...)
	_, port, err := net.SplitHostPort(master.Addr)
	require.NoError(t, err)
	redistest.Start(t, append(durable, "--replicaof", "127.0.0.1", port)...)
	eventually(t, 20*time.Second, func() bool {
		n, err := master.Command("WAIT", "1", "100")
		return err == nil && n == ":1"
	}, "the replica does not follow")

	conf := filepath.Join(t.TempDir(), "sentinel.conf")
	text := fmt.Sprintf("sentinel monitor main 127.0.0.1 %s 1\nsentinel down-after-milliseconds main 2000\nsentinel failover-timeout main 10000\n", port)
	require.NoError(t, os.WriteFile(conf, []byte(text), 0o600))
	addr := freeAddr(t)
	_, port, err = net.SplitHostPort(addr)
	require.NoError(t, err)
	cmd := exec.Command("redis-server", conf, "--sentinel", "--port", port, "--bind", "127.0.0.1", "--dir", t.TempDir())
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	})
	sentinel := &redistest.Server{Addr: addr}
	eventually(t, 30*time.Second, func() bool {
		replicas, err := sentinel.Command("SENTINEL", "REPLICAS", "main")
		return err == nil && strings.HasPrefix(replicas, "*1")
	}, "the sentinel does not find the replica")
	return master, "redis+sentinel://" + addr + "/0?master=main"
}
