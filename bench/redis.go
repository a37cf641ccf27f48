package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// redisServer is a redis-server with an append-only file in a directory of its own.
type redisServer struct {
	*process
	addr   string
	client *redis.Client
}

// startRedis starts a server with a value of appendfsync.
func startRedis(ctx context.Context, dir, fsync string) (*redisServer, error) {
	program, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, fmt.Errorf("find redis-server (on Debian: apt-get install redis-server): %w", err)
	}
	addr, err := freeAddr(ctx)
	if err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("read a free address: %w", err)
	}
	data, err := os.MkdirTemp(dir, "redis-")
	if err != nil {
		return nil, fmt.Errorf("make a directory for Redis: %w", err)
	}
	p, err := startProcess(dir, "redis-server", program,
		"--port", port, "--bind", "127.0.0.1", "--dir", data, "--save", "", "--daemonize", "no",
		"--appendonly", "yes", "--appendfsync", fsync, "--maxmemory-policy", "noeviction")
	if err != nil {
		return nil, err
	}
	s := &redisServer{process: p, addr: addr, client: redis.NewClient(&redis.Options{Addr: addr})}
	if err := s.awaitPing(ctx); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

func (s *redisServer) awaitPing(ctx context.Context) error {
	deadline := time.After(startTimeout)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := s.client.Ping(ctx).Err()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-s.done:
			return fmt.Errorf("redis-server ended:\n%s", s.tail(10))
		case <-deadline:
			return fmt.Errorf("redis-server does not answer: %w", err)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (s *redisServer) stop() {
	_ = s.client.Close() // the server ends with it
	s.process.stop()
}

// freeAddr returns an address on loopback on which no process listens.
func freeAddr(ctx context.Context) (string, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// info returns the numbers in sections of INFO; for commandstats the numbers of calls.
func (s *redisServer) info(ctx context.Context, sections ...string) (map[string]float64, error) {
	numbers := make(map[string]float64)
	for _, section := range sections {
		text, err := s.client.Info(ctx, section).Result()
		if err != nil {
			return nil, fmt.Errorf("ask Redis for its %s: %w", section, err)
		}
		parseInfo(text, numbers)
	}
	return numbers, nil
}

func parseInfo(text string, into map[string]float64) {
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		if calls, ok := strings.CutPrefix(value, "calls="); ok {
			value, _, _ = strings.Cut(calls, ",")
		}
		if n, err := strconv.ParseFloat(value, 64); err == nil {
			into[name] = n
		}
	}
}

// calls counts the commands that a Redis ran, by name: those from clients and those
// from scripts.
type calls struct{ sent, scripted map[string]int }

// total sums counts.
func total(by map[string]int) int {
	n := 0
	for _, count := range by {
		n += count
	}
	return n
}

// monitor counts commands until the caller calls stop, which returns the counts. It
// slows Redis down, so no time is measured meanwhile.
func (s *redisServer) monitor(ctx context.Context) (stop func() (calls, error), err error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.addr)
	if err != nil {
		return nil, fmt.Errorf("dial Redis: %w", err)
	}
	lines := bufio.NewReaderSize(conn, 64<<10)
	_, err = conn.Write([]byte("MONITOR\r\n"))
	if err == nil {
		_, err = lines.ReadSlice('\n') // +OK
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("monitor Redis: %w", err), conn.Close())
	}
	const last = "bench-monitor-ends"
	counted := calls{sent: make(map[string]int), scripted: make(map[string]int)}
	var done sync.WaitGroup
	done.Go(func() { err = countCalls(lines, last, counted) })
	return func() (calls, error) {
		// When this command appears, all commands before it have been counted.
		if perr := s.client.Do(ctx, "ECHO", last).Err(); perr != nil {
			return calls{}, errors.Join(fmt.Errorf("end monitoring Redis: %w", perr), conn.Close())
		}
		done.Wait()
		return counted, errors.Join(err, conn.Close())
	}, nil
}

// countCalls counts the lines of MONITOR, such as
//
//	+1700000000.123456 [0 127.0.0.1:40000] "GET" "key"
//	+1700000000.123456 [0 lua] "get" "key"
//
// until a line that contains last.
func countCalls(lines *bufio.Reader, last string, into calls) error {
	for {
		line, err := lines.ReadSlice('\n')
		start := line
		for errors.Is(err, bufio.ErrBufferFull) { // only the beginning of the line counts
			start = bytes.Clone(start[:min(len(start), 256)])
			_, err = lines.ReadSlice('\n')
		}
		if err != nil {
			return fmt.Errorf("monitor Redis: %w", err)
		}
		if bytes.Contains(start, []byte(last)) {
			return nil
		}
		_, origin, _ := bytes.Cut(start, []byte("["))
		origin, command, ok := bytes.Cut(origin, []byte(`] "`))
		if !ok {
			continue
		}
		name, _, _ := bytes.Cut(command, []byte(`"`))
		by := into.sent
		if bytes.HasSuffix(origin, []byte(" lua")) {
			by = into.scripted
		}
		by[strings.ToLower(string(name))]++
	}
}
