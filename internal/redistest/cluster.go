package redistest

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"slices"
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

// NewCluster starts a cluster of three masters, each with a replica on request. The
// arguments are added to the command line of each server.
func NewCluster(tb testing.TB, replicas bool, args ...string) *Cluster {
	tb.Helper()
	return newCluster(tb, nil, replicas, args...)
}

// newCluster is NewCluster with TLS at further ports, if there are files for it.
func newCluster(tb testing.TB, files *Files, replicas bool, args ...string) *Cluster {
	tb.Helper()
	const masters = 3
	c := &Cluster{tb: tb, Nodes: make([]*Server, masters, 2*masters)}
	buses := make([]string, masters, 2*masters)
	start := func() (*Server, string) {
		bus := FreePort(tb)
		all := append([]string{"--cluster-enabled", "yes", "--cluster-port", bus}, args...)
		if files != nil {
			return StartTLS(tb, *files, all...), bus
		}
		return Start(tb, all...), bus
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
		_, port, _ := net.SplitHostPort(cmp.Or(s.TLSAddr, s.Addr)) // from Start, so it is valid
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
		id := c.idOf(c.Nodes[i])
		deadline := time.Now().Add(20 * time.Second)
		for { // until it knows the master
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

// Masters returns the running nodes that are masters now.
func (c *Cluster) Masters() []*Server {
	c.tb.Helper()
	var masters []*Server
	for _, s := range c.Nodes {
		if s.Running() && strings.Contains(s.text("INFO", "replication"), "role:master") {
			masters = append(masters, s)
		}
	}
	return masters
}

// AwaitMasters waits until n of the running nodes are masters of a complete cluster.
func (c *Cluster) AwaitMasters(n int) {
	c.tb.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		whole := 0
		for _, s := range c.Nodes {
			if s.Running() && strings.Contains(s.text("INFO", "replication"), "role:master") && strings.Contains(s.text("CLUSTER", "INFO"), "cluster_state:ok") {
				whole++
			}
		}
		if whole >= n {
			return
		}
		if time.Now().After(deadline) {
			c.tb.Fatalf("%d of %d masters serve", whole, n)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// AwaitReplicas waits until n nodes are replicas in sync with their masters.
func (c *Cluster) AwaitReplicas(n int) {
	c.tb.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		found := 0
		for _, s := range c.Nodes {
			info := ""
			if s.Running() {
				info = s.text("INFO", "replication")
			}
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

// Reshard moves slots and their keys from one master to another, while they are in use.
// It works like redis-cli --cluster reshard, but moves a hundred slots at a time.
func (c *Cluster) Reshard(from, to *Server, n int) {
	c.tb.Helper()
	source, target := c.idOf(from), c.idOf(to)
	host, port, _ := net.SplitHostPort(to.Addr) // from Start, so it is valid
	for moved := range slices.Chunk(c.slotsOf(source, n), 100) {
		each := func(s *Server, words ...string) []any {
			commands := make([][]string, len(moved))
			for i, slot := range moved {
				commands[i] = slices.Clone(words)
				commands[i][slices.Index(words, "slot")] = slot
			}
			return s.pipeline(commands)
		}
		each(to, "CLUSTER", "SETSLOT", "slot", "IMPORTING", source)
		each(from, "CLUSTER", "SETSLOT", "slot", "MIGRATING", target)
		for left := true; left; {
			left = false
			var migrate [][]string
			for _, found := range each(from, "CLUSTER", "GETKEYSINSLOT", "slot", "100") {
				keys, _ := found.([]any)
				if len(keys) == 0 {
					continue
				}
				left = true
				words := []string{"MIGRATE", host, port, "", "0", "5000", "KEYS"}
				for _, key := range keys {
					words = append(words, fmt.Sprint(key))
				}
				migrate = append(migrate, words)
			}
			from.pipeline(migrate)
		}
		each(to, "CLUSTER", "SETSLOT", "slot", "NODE", target)
		each(from, "CLUSTER", "SETSLOT", "slot", "NODE", target)
	}
}

// idOf returns the id of a node, which may be slow to answer when it is busy.
func (c *Cluster) idOf(s *Server) string {
	c.tb.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		if id := strings.TrimSpace(s.text("CLUSTER", "MYID")); id != "" {
			return id
		}
		if time.Now().After(deadline) {
			c.tb.Fatalf("%s does not give its id", s.Addr)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// slotsOf returns the first slots of a master.
func (c *Cluster) slotsOf(id string, n int) (slots []string) {
	c.tb.Helper()
	nodes := ""
	for deadline := time.Now().Add(20 * time.Second); nodes == "" && time.Now().Before(deadline); {
		if masters := c.Masters(); len(masters) > 0 {
			nodes = masters[0].text("CLUSTER", "NODES")
		}
	}
	for line := range strings.Lines(nodes) {
		fields := strings.Fields(line)
		if fields[0] != id {
			continue
		}
		for _, part := range fields[8:] {
			first, last, found := strings.Cut(part, "-")
			if !found {
				last = first
			}
			low, _ := strconv.Atoi(first)
			high, _ := strconv.Atoi(last)
			for slot := low; slot <= high && len(slots) < n; slot++ {
				slots = append(slots, strconv.Itoa(slot))
			}
		}
	}
	if len(slots) < n {
		c.tb.Fatalf("%s has only %d slots", id, len(slots))
	}
	return slots
}

// await waits until a condition holds for every node.
func (c *Cluster) await(otherwise string, holds func(s *Server) bool) {
	c.tb.Helper()
	deadline := time.Now().Add(2 * time.Minute) // on a busy machine, nodes miss each other's pings
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

// text returns the bulk string that answers a command, or nothing after an error.
func (s *Server) text(words ...string) string {
	_, port, _ := net.SplitHostPort(s.Addr) // from Start, so it is valid
	out, err := exec.Command("timeout", append([]string{"1", "redis-cli", "-p", port}, words...)...).Output()
	if err != nil {
		return ""
	}
	return string(out)
}

// pipeline sends commands over one connection and returns their replies. It fails the test
// if one of them is an error.
func (s *Server) pipeline(commands [][]string) []any {
	s.tb.Helper()
	conn, err := net.DialTimeout("tcp", s.Addr, time.Second)
	if err != nil {
		s.tb.Fatalf("dial redis-server: %v", err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second)) // a new connection accepts a deadline
	var request strings.Builder
	for _, words := range commands {
		writeCommand(&request, words)
	}
	go func() { _, _ = conn.Write([]byte(request.String())) }() // after an error, the replies are missing
	lines := bufio.NewReader(conn)
	replies := make([]any, len(commands))
	for i := range replies {
		if replies[i], err = parseReply(lines); err != nil {
			s.tb.Fatalf("%v: %v", commands[i], err)
		}
	}
	return replies
}

// parseReply reads a reply: a string, or a list of replies.
func parseReply(lines *bufio.Reader) (any, error) {
	line, err := lines.ReadString('\n')
	if err != nil {
		return nil, fmt.Errorf("read from redis-server: %w", err)
	}
	line = strings.TrimRight(line, "\r\n")
	n, _ := strconv.Atoi(line[1:])
	switch line[0] {
	case '-':
		return nil, errors.New(line[1:])
	case '$':
		text := make([]byte, max(n, 0)+2)
		_, err := io.ReadFull(lines, text)
		return string(text[:max(n, 0)]), err
	case '*':
		list := make([]any, max(n, 0))
		for i := range list {
			if list[i], err = parseReply(lines); err != nil {
				return nil, err
			}
		}
		return list, nil
	default:
		return line[1:], nil
	}
}
