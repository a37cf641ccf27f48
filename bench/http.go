package main

import (
	"context"
	"net"
	"net/http"
	"sync/atomic"
)

// traffic counts the bytes of HTTP connections on this side.
type traffic struct{ read, written atomic.Int64 }

// newHTTPClient returns a client that keeps a number of connections open, and counts
// their bytes unless count is nil.
func newHTTPClient(connections int, count *traffic) *http.Client {
	var dialer net.Dialer
	return &http.Client{Transport: &http.Transport{
		MaxIdleConns: connections, MaxIdleConnsPerHost: connections,
		DisableCompression: true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, addr)
			if err != nil || count == nil {
				return conn, err
			}
			return &countedConn{Conn: conn, count: count}, nil
		},
	}}
}

type countedConn struct {
	net.Conn
	count *traffic
}

func (c *countedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.count.read.Add(int64(n))
	return n, err
}

func (c *countedConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.count.written.Add(int64(n))
	return n, err
}
