package faults

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/redistest"
)

// A master is killed under load, and Sentinel makes its replica the master. A replica
// may lack the last writes, so a batch may be gone. Every remaining batch is complete.
func TestAfterAFailoverABatchIsWholeOrGone(t *testing.T) {
	if !long {
		t.Skip("takes minutes: run it with -tags faults")
	}
	for round := range 3 {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			p := startPair(t)
			failOver(t, p, "failover", p.master.Kill)
		})
	}
}

// Sentinel is told to make the replica the master while the master is well. Until Sentinel
// has told everybody, which takes a second or two, the old master acknowledges what is lost
// as soon as it becomes a replica. With min-replicas-to-write it refuses to write as soon
// as its replica is gone.
func TestAForcedFailoverSendsNothingTwiceOfWhatIsLeft(t *testing.T) {
	scenario(t)
	for _, guarded := range scale([]bool{false}, []bool{false, true}) {
		for round := range scale(1, 3) {
			t.Run(fmt.Sprintf("guarded=%v/%d", guarded, round), func(t *testing.T) {
				scenario(t)
				name, args := "forced failover", []string(nil)
				if guarded {
					name, args = "forced failover with min-replicas-to-write", []string{"--min-replicas-to-write", "1", "--min-replicas-max-lag", "2"}
				}
				p := startPair(t, args...)
				failOver(t, p, name, func() {
					_, err := p.sentinel.Command("SENTINEL", "FAILOVER", "main")
					require.NoError(t, err)
				})
			})
		}
	}
}

// failOver replaces the master of a pair under load, and checks the remaining batches.
func failOver(t *testing.T, p *pair, name string, replace func()) {
	t.Helper()
	w := newWorldOn(t, p.url)
	w.lossy = true
	w.target.delay = 5 * time.Millisecond
	w.startAPI()
	w.startWorker("w0")
	w.startWorker("w1")
	load := w.startLoad(3, 20)
	time.Sleep(scale(3*time.Second, 5*time.Second))
	replace()
	replaced := time.Now()
	p.awaitOther(t)
	switched := time.Now()
	eventually(t, time.Minute, func() bool { return load.ackedAfter(switched.Add(500 * time.Millisecond)) }, "nothing is accepted after the failover")
	accepted := time.Since(replaced)
	time.Sleep(3 * time.Second)
	batches := load.stop()
	kept := w.kept(batches)
	stopped := time.Now()
	w.settle(scale(30*time.Second, 150*time.Second), kept...)
	ended := time.Since(stopped)
	sum := w.verifyAll(kept)
	twice := w.sentTwice(kept)
	figure(t, "%s: batches=%d gone=%d outcomes=%v POSTs sent twice=%d, of batches that are gone=%d, another master after %.1fs, accepted again after %.1fs, last batch ended %.1fs after the last was accepted",
		name, len(batches), len(batches)-len(kept), sum, twice, w.sentTwice(batches)-twice, switched.Sub(replaced).Seconds(), accepted.Seconds(), ended.Seconds())
}

// pair is a master with a replica, and the sentinel that watches them.
type pair struct {
	master, sentinel *redistest.Server
	url              string
}

// awaitOther waits until the sentinel names another master.
func (p *pair) awaitOther(t *testing.T) {
	t.Helper()
	rdb := redis.NewSentinelClient(&redis.Options{Addr: p.sentinel.Addr})
	defer rdb.Close()
	eventually(t, time.Minute, func() bool {
		addr, err := rdb.GetMasterAddrByName(t.Context(), "main").Result()
		return err == nil && len(addr) == 2 && net.JoinHostPort(addr[0], addr[1]) != p.master.Addr
	}, "the sentinel makes no other the master")
}

// startPair starts a master, a replica and a sentinel. The arguments are added to the
// command lines of the two servers.
func startPair(t *testing.T, args ...string) *pair {
	t.Helper()
	args = slices.Concat(durable, []string{"--repl-diskless-sync-delay", "0"}, args)
	master := redistest.Start(t, args...)
	_, port, err := net.SplitHostPort(master.Addr)
	require.NoError(t, err)
	redistest.Start(t, append(args, "--replicaof", "127.0.0.1", port)...)
	eventually(t, time.Minute, func() bool {
		n, err := master.Command("WAIT", "1", "100")
		return err == nil && n == ":1"
	}, "the replica does not follow")

	conf := filepath.Join(t.TempDir(), "sentinel.conf")
	text := fmt.Sprintf("sentinel monitor main 127.0.0.1 %s 1\nsentinel down-after-milliseconds main 2000\nsentinel failover-timeout main 10000\n", port)
	require.NoError(t, os.WriteFile(conf, []byte(text), 0o600))
	addr := redistest.FreeAddr(t)
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
	return &pair{master: master, sentinel: sentinel, url: "redis+sentinel://" + addr + "/0?master=main"}
}
