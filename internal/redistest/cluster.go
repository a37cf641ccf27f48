package redistest

import (
	"bytes"
	"fmt"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// slots is the number of hash slots of a cluster.
const slots = 16384

// Cluster is a cluster on loopback.
type Cluster struct {
	// Nodes are the servers: first the masters, then a replica of each, if there are any.
	Nodes []*Server

	tb testing.TB
}

// StartCluster starts a cluster of three masters and returns its URL.
func StartCluster(tb testing.TB) string {
	tb.Helper()
	return NewCluster(tb, false, "--cluster-node-timeout", "5000").URL()
}

// NewCluster starts a cluster of three masters, each with a replica if asked for. The
// arguments are added to the command line of each server.
func NewCluster(tb testing.TB, replicas bool, args ...string) *Cluster {
	tb.Helper()
	const masters = 3
	c := &Cluster{tb: tb, Nodes: make([]*Server, masters, 2*masters)}
	buses := make([]string, masters, 2*masters)
	start := func() (*Server, string) {
		bus := FreePort(tb)
		return Start(tb, append([]string{"--cluster-enabled", "yes", "--cluster-port", bus}, args...)...), bus
	}
	for i := range masters {
		c.Nodes[i], buses[i] = start()
		c.Nodes[i].must("CLUSTER", "SET-CONFIG-EPOCH", strconv.Itoa(i+1))
		c.Nodes[i].must("CLUSTER", "ADDSLOTSRANGE", strconv.Itoa(i*slots/masters), strconv.Itoa((i+1)*slots/masters-1))
	}
	if replicas {
		for range masters {
			s, bus := start()
			c.Nodes, buses = append(c.Nodes, s), append(buses, bus)
		}
	}
	for i, s := range c.Nodes {
		_, port, _ := net.SplitHostPort(s.Addr) // made by Start
		for _, other := range c.Nodes {
			other.must("CLUSTER", "MEET", "127.0.0.1", port, buses[i])
		}
	}
	c.await("the cluster does not come up", func(s *Server) bool {
		info := s.text("CLUSTER", "INFO")
		return strings.Contains(info, "cluster_state:ok") &&
			strings.Contains(info, fmt.Sprintf("cluster_known_nodes:%d\r", len(c.Nodes))) &&
			strings.Contains(info, fmt.Sprintf("cluster_size:%d\r", masters))
	})
	for i, s := range c.Nodes[masters:] {
		id := strings.TrimSpace(c.Nodes[i].text("CLUSTER", "MYID"))
		deadline := time.Now().Add(20 * time.Second)
		for { // it has to know the master
			_, err := s.Command("CLUSTER", "REPLICATE", id)
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				tb.Fatalf("replicate %s: %v", id, err)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	c.AwaitReplicas(len(c.Nodes) - masters)
	return c
}

// URL returns the cluster's URL, with all nodes.
func (c *Cluster) URL() string {
	addrs := make([]string, len(c.Nodes))
	for i, s := range c.Nodes {
		addrs[i] = s.Addr
	}
	return "redis+cluster://" + strings.Join(addrs, ",")
}

// Masters returns the nodes that are masters now and run.
func (c *Cluster) Masters() []*Server {
	c.tb.Helper()
	var masters []*Server
	for _, s := range c.Nodes {
		if strings.Contains(s.text("INFO", "replication"), "role:master") {
			masters = append(masters, s)
		}
	}
	return masters
}

// AwaitReplicas waits until that many nodes are replicas in step with their masters.
func (c *Cluster) AwaitReplicas(n int) {
	c.tb.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		found := 0
		for _, s := range c.Nodes {
			info := s.text("INFO", "replication")
			if strings.Contains(info, "role:slave") && strings.Contains(info, "master_link_status:up") {
				found++
			}
		}
		if found >= n {
			return
		}
		if time.Now().After(deadline) {
			c.tb.Fatalf("%d of %d replicas follow", found, n)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Reshard moves slots from one master to another, with their keys, while they are used.
func (c *Cluster) Reshard(from, to *Server, n int) {
	c.tb.Helper()
	id := func(s *Server) string { return strings.TrimSpace(s.text("CLUSTER", "MYID")) }
	out, err := exec.Command("redis-cli", "--cluster", "reshard", from.Addr, "--cluster-from", id(from), "--cluster-to", id(to),
		"--cluster-slots", strconv.Itoa(n), "--cluster-yes", "--cluster-pipeline", "100").CombinedOutput()
	if err != nil {
		c.tb.Fatalf("reshard: %v\n%s", err, tail(out, 20))
	}
}

// await waits until something holds for every node.
func (c *Cluster) await(otherwise string, holds func(s *Server) bool) {
	c.tb.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for _, s := range c.Nodes {
		for !holds(s) {
			if time.Now().After(deadline) {
				c.tb.Fatal(otherwise)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
}

func (s *Server) must(words ...string) {
	s.tb.Helper()
	if _, err := s.Command(words...); err != nil {
		s.tb.Fatalf("%v: %v", words, err)
	}
}

// text returns the bulk string that a command answers, or nothing if it fails.
func (s *Server) text(words ...string) string {
	_, port, _ := net.SplitHostPort(s.Addr) // made by Start
	out, err := exec.Command("timeout", append([]string{"1", "redis-cli", "-p", port}, words...)...).Output()
	if err != nil {
		return ""
	}
	return string(out)
}

func tail(out []byte, lines int) []byte {
	all := bytes.Split(out, []byte("\n"))
	return bytes.Join(all[max(0, len(all)-lines):], []byte("\n"))
}
