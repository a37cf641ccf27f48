package rdb

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/certs"
	"github.com/batchd/batchd/internal/certs/certstest"
	"github.com/batchd/batchd/internal/redistest"
)

// credentials are the files of a Redis and of its client.
type credentials struct {
	authority *certstest.Authority
	redis     redistest.Files
	client    certs.Client
}

func newCredentials(t *testing.T, dir string) credentials {
	t.Helper()
	c := credentials{authority: certstest.New(t, "authority")}
	c.redis.CA = certstest.Write(t, dir, "ca.pem", c.authority.PEM)
	c.redis.Cert, c.redis.Key = c.authority.WritePair(t, dir, "redis.example")
	c.client.CAFile = c.redis.CA
	c.client.CertFile, c.client.KeyFile = c.authority.WritePair(t, dir, "client")
	return c
}

// ping returns the error of a first exchange with a Redis.
func ping(t *testing.T, url string, files certs.Client) error {
	t.Helper()
	db, err := Open(Config{URL: URL(url), TLS: files}, Options{})
	if err != nil {
		return err
	}
	ctx, cancel := db.WithTimeout(t.Context())
	defer cancel()
	err = MapError(ctx, db.Client.Ping(ctx).Err())
	if closed := db.Close(); closed != nil {
		return closed
	}
	return err
}

// use reads and writes keys that lie on all nodes of a cluster.
func use(t *testing.T, url string, files certs.Client) {
	t.Helper()
	db, err := Open(Config{URL: URL(url), TLS: files}, Options{Timeout: time.Minute})
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	for i := range 20 {
		key := "key" + strconv.Itoa(i)
		require.NoError(t, db.Client.Set(t.Context(), key, i, time.Minute).Err())
		require.Equal(t, strconv.Itoa(i), db.Client.Get(t.Context(), key).Val())
	}
}

func TestRedisIsReachedWithTheCertificatesOfAPrivateAuthority(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ours, others := newCredentials(t, dir), newCredentials(t, t.TempDir())
	bare := certs.Client{CAFile: ours.client.CAFile}
	foreign := certs.Client{CAFile: ours.client.CAFile, CertFile: others.client.CertFile, KeyFile: others.client.KeyFile}
	expired := certs.Client{CAFile: ours.client.CAFile}
	cert, key := ours.authority.Pair(t, "late", -time.Minute)
	expired.CertFile, expired.KeyFile = certstest.Write(t, dir, "late.pem", cert), certstest.Write(t, dir, "late.key", key)
	named := func(name string) certs.Client {
		c := ours.client
		c.ServerName = name
		return c
	}
	unknown := ours.client
	unknown.CAFile = others.client.CAFile
	public := ours.client
	public.CAFile = ""

	for kind, start := range map[string]func() string{
		"server":   func() string { return "rediss://" + redistest.StartTLS(t, ours.redis).TLSAddr + "/0" },
		"sentinel": func() string { return redistest.StartSentinelTLS(t, ours.redis) },
		"cluster":  func() string { return redistest.StartClusterTLS(t, ours.redis) },
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			url := start()
			use(t, url, ours.client)
			use(t, url, named("redis.example"))
			refused := map[string]certs.Client{
				"an unknown authority": unknown, "the authorities of the system": public, "a server of another name": named("evil.example"),
				"no certificate of the client": bare, "a client of another authority": foreign, "a certificate of the client that has expired": expired,
			}
			var all sync.WaitGroup // each waits
			var errs sync.Map
			for about, files := range refused {
				all.Go(func() { errs.Store(about, ping(t, url, files)) })
			}
			all.Wait()
			for about := range refused {
				found, _ := errs.Load(about)
				err, _ := found.(error)
				require.True(t, IsUnavailable(err), "%s: %v", about, err)
			}
		})
	}
}

// A client that speaks TLS and a server that does not get nowhere, and the other way round. Neither waits for ever.
func TestTLSIsNotMixedWithClearText(t *testing.T) {
	t.Parallel()
	ours := newCredentials(t, t.TempDir())
	server := redistest.StartTLS(t, ours.redis)
	for url, files := range map[string]certs.Client{"rediss://" + server.Addr: ours.client, "redis://" + server.TLSAddr: {}} {
		err := ping(t, url, files)
		require.True(t, IsUnavailable(err), "%v", err)
	}
}

// The files of both sides are replaced, as when an authority is renewed. The process stays.
func TestRenewedCertificatesReachRedisWithoutARestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ours := newCredentials(t, dir)
	server := redistest.StartTLS(t, ours.redis)
	db, err := Open(Config{URL: URL("rediss://" + server.TLSAddr), TLS: ours.client}, Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	ask := func() error {
		ctx, cancel := db.WithTimeout(t.Context())
		defer cancel()
		return db.Client.Ping(ctx).Err()
	}
	require.Eventually(t, func() bool { return ask() == nil }, 30*time.Second, 10*time.Millisecond)
	server.Kill()
	next := newCredentials(t, dir)
	require.Equal(t, ours.client, next.client, "the same files")
	server.Restart()
	require.Eventually(t, func() bool { return ask() == nil }, 30*time.Second, 10*time.Millisecond)
	require.NoError(t, db.Client.Set(t.Context(), "a", "b", 0).Err())
}

func TestRedisMustSpeakTLS12(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ours := newCredentials(t, dir)
	both, err := tls.LoadX509KeyPair(ours.redis.Cert, ours.redis.Key)
	require.NoError(t, err)
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{both}, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}) //nolint:gosec // an old server
	require.NoError(t, err)
	defer ln.Close()
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			_ = conn.(*tls.Conn).HandshakeContext(context.Background()) //nolint:forcetypeassert // a listener of TLS has such connections
			_ = conn.Close()
		}
	}()
	files, err := certs.OpenClient(ours.client, "redis.tls", nil)
	require.NoError(t, err)
	for _, f := range []*certs.ClientFiles{files, nil} {
		_, err = NewSecure(f, time.Minute, nil).Dial(t.Context(), "tcp", ln.Addr().String())
		require.ErrorContains(t, err, "protocol version")
		require.ErrorAs(t, err, new(net.Error))
	}
}

// go-redis opens the connection of a subscription without a bound, and Close waits for it.
func TestAHandshakeWithRedisThatStallsEnds(t *testing.T) {
	t.Parallel()
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0") // it answers nothing
	require.NoError(t, err)
	defer ln.Close()
	_, err = NewSecure(nil, 10*time.Millisecond, nil).Dial(context.Background(), "tcp", ln.Addr().String())
	require.ErrorIs(t, err, context.DeadlineExceeded)
	db, err := Open(Config{URL: URL("rediss://" + ln.Addr().String())}, Options{Timeout: 20 * time.Millisecond})
	require.NoError(t, err)
	p := NewPubSub(db, slog.New(slog.DiscardHandler))
	p.Listen("news", func(string) {})
	p.Close()
	require.NoError(t, db.Close())
}

// With sentinels, the error of an exchange does not say why none was reached; the log does, and is not flooded.
func TestTheLogSaysWhyTLSFails(t *testing.T) {
	t.Parallel()
	ours := newCredentials(t, t.TempDir())
	log := new(syncBuffer)
	db, err := Open(Config{URL: URL(redistest.StartSentinelTLS(t, ours.redis)), TLS: certs.Client{ServerName: "evil.example", CAFile: ours.client.CAFile}},
		Options{Logger: slog.New(slog.NewTextHandler(log, nil))})
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	for range 3 {
		require.Eventually(t, func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			return db.Client.Ping(ctx).Err() != nil && log.String() != ""
		}, 30*time.Second, time.Millisecond)
	}
	require.Equal(t, 1, strings.Count(log.String(), "WARN"), log)
	require.Contains(t, log.String(), "not evil.example")
}

// go-redis repeats a refused handshake until time runs out, and returns nothing but that.
func TestAnExchangeThatRunsOutOfTimeSaysWhyTLSFails(t *testing.T) {
	t.Parallel()
	ours := newCredentials(t, t.TempDir())
	db, err := Open(Config{URL: URL("rediss://" + redistest.StartTLS(t, ours.redis).TLSAddr), TLS: certs.Client{ServerName: "evil.example", CAFile: ours.client.CAFile}},
		Options{Timeout: 150 * time.Millisecond}) // less than the repetitions take
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	require.Eventually(t, func() bool {
		ctx, cancel := db.WithTimeout(t.Context())
		defer cancel()
		err := db.Client.Ping(ctx).Err()
		if !errors.Is(err, context.DeadlineExceeded) {
			return false
		}
		err = MapError(ctx, err)
		return IsUnavailable(err) && strings.Contains(err.Error(), "not evil.example")
	}, 30*time.Second, time.Millisecond)
}

// syncBuffer is a buffer for several goroutines.
type syncBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func TestFilesThatCannotBeUsedEndTheStart(t *testing.T) {
	t.Parallel()
	none := filepath.Join(t.TempDir(), "none.pem")
	_, err := Open(Config{URL: "rediss://h", TLS: certs.Client{CAFile: none}}, Options{})
	require.ErrorContains(t, err, "redis.tls: cannot read "+none)
	ours := newCredentials(t, t.TempDir())
	_, err = Open(Config{URL: "redis://h", TLS: ours.client}, Options{})
	require.ErrorContains(t, err, "would not be encrypted")
}

// No option of a URL turns the verification of Redis off.
func TestAURLThatTrustsEveryServerIsRefused(t *testing.T) {
	t.Parallel()
	for _, form := range []string{"rediss://h?%s", "rediss://h/0?db=1&%s", "rediss://h?%s&x=%%zz", "rediss+sentinel://a,b/0?master=m&%s", "rediss+cluster://a?%s", "redis://h?%s"} {
		for _, option := range []string{"skip_verify=true", "skip_verify=1", "skip%5Fverify=true"} {
			url := fmt.Sprintf(form, option)
			require.ErrorContains(t, URL(url).check(), "skip_verify", url)
		}
	}
	// The check and go-redis do not read every URL alike.
	_, err := Connect("rediss://h?skip_verify=true&client_name=@b", time.Second, nil, nil)
	require.ErrorIs(t, err, errUnverified)
}
