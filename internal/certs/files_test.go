package certs

import (
	"bytes"
	"crypto/tls"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/certs/certstest"
	"github.com/batchd/batchd/internal/setting"
)

// served are the files of a server, and what it logs.
type served struct {
	*Files
	dir string
	log *bytes.Buffer
	ca  *certstest.Authority
	// listener is the configuration of all handshakes, which has the keys of sessions.
	listener *tls.Config
}

func open(t *testing.T) *served {
	t.Helper()
	s := &served{dir: t.TempDir(), log: &bytes.Buffer{}, ca: certstest.New(t, "authority")}
	s.write(t, "one", time.Hour)
	var err error
	s.Files, err = Open(Server{CertFile: filepath.Join(s.dir, "tls.crt"), KeyFile: filepath.Join(s.dir, "tls.key")}, slog.New(slog.NewTextHandler(s.log, nil)))
	require.NoError(t, err)
	s.listener = s.Config()
	return s
}

// write writes a new pair for a name.
func (s *served) write(t *testing.T, name string, life time.Duration) {
	t.Helper()
	cert, key := s.ca.Pair(t, name, life)
	certstest.Write(t, s.dir, "tls.crt", cert)
	certstest.Write(t, s.dir, "tls.key", key)
}

// name returns the name in the certificate of the next handshake, or what the client's error is.
func (s *served) name(t *testing.T, client *tls.Config) string {
	t.Helper()
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	go func() {
		far, err := ln.Accept()
		if err != nil {
			return
		}
		defer far.Close()
		_, _ = tls.Server(far, s.listener).Write([]byte("!"))
	}()
	near, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", ln.Addr().String())
	require.NoError(t, err)
	defer near.Close()
	require.NoError(t, near.SetDeadline(time.Now().Add(30*time.Second)))
	if client == nil {
		client = &tls.Config{}
	}
	client.RootCAs, client.ServerName = s.ca.Pool(), "localhost"
	conn := tls.Client(near, client)
	if err := conn.HandshakeContext(t.Context()); err != nil {
		return err.Error()
	}
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		return err.Error()
	}
	return conn.ConnectionState().PeerCertificates[0].Subject.CommonName
}

func (s *served) checks(t *testing.T, n int) {
	t.Helper()
	for range n {
		s.check(t.Context())
	}
}

func TestARenewedPairIsServed(t *testing.T) {
	t.Parallel()
	s := open(t)
	require.Equal(t, "one", s.name(t, nil))
	s.checks(t, 3)
	require.Empty(t, s.log.String())
	s.write(t, "two", time.Hour)
	require.Equal(t, "one", s.name(t, nil))
	s.checks(t, 1)
	require.Equal(t, "two", s.name(t, nil))
	require.Equal(t, 1, strings.Count(s.log.String(), "loaded again"))
}

// A pair is written as two files, and in between they do not belong together.
func TestAPairIsRenewedFileByFile(t *testing.T) {
	t.Parallel()
	s := open(t)
	cert, key := s.ca.Pair(t, "two", time.Hour)
	certstest.Write(t, s.dir, "tls.crt", cert)
	s.checks(t, 1)
	require.Equal(t, "one", s.name(t, nil))
	require.Empty(t, s.log.String(), "a renewal that goes on is no fault")
	certstest.Write(t, s.dir, "tls.key", key[:40])
	s.checks(t, 1)
	certstest.Write(t, s.dir, "tls.key", key)
	s.checks(t, 1)
	require.Equal(t, "two", s.name(t, nil))
	require.NotContains(t, s.log.String(), "ERROR")
}

// Kubernetes replaces the directory of a mounted secret by a symbolic link.
func TestAPairBehindALinkIsRenewed(t *testing.T) {
	t.Parallel()
	s := open(t)
	dir := t.TempDir()
	swap := func(name string) {
		cert, key := s.ca.Pair(t, name, time.Hour)
		require.NoError(t, os.Mkdir(filepath.Join(dir, name), 0o700))
		certstest.Write(t, filepath.Join(dir, name), "tls.crt", cert)
		certstest.Write(t, filepath.Join(dir, name), "tls.key", key)
		require.NoError(t, os.Symlink(name, filepath.Join(dir, "..new")))
		require.NoError(t, os.Rename(filepath.Join(dir, "..new"), filepath.Join(dir, "..data")))
	}
	swap("one")
	for _, file := range []string{"tls.crt", "tls.key"} {
		require.NoError(t, os.Symlink(filepath.Join("..data", file), filepath.Join(dir, file)))
	}
	s.cfg.CertFile, s.cfg.KeyFile = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	s.checks(t, 1)
	swap("two")
	s.checks(t, 1)
	require.Equal(t, "two", s.name(t, nil))
}

func TestAFaultyPairIsLoggedOnceAndTheOldOneStays(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		fault func(*testing.T, *served)
		file  string
	}{
		"no key":               {func(t *testing.T, s *served) { t.Helper(); require.NoError(t, os.Remove(s.cfg.KeyFile)) }, "tls.key"},
		"no certificate":       {func(t *testing.T, s *served) { t.Helper(); require.NoError(t, os.Remove(s.cfg.CertFile)) }, "tls.crt"},
		"an empty certificate": {func(t *testing.T, s *served) { t.Helper(); certstest.Write(t, s.dir, "tls.crt", nil) }, "tls.crt"},
		"an empty key":         {func(t *testing.T, s *served) { t.Helper(); certstest.Write(t, s.dir, "tls.key", nil) }, "tls.key"},
		"a damaged certificate": {func(t *testing.T, s *served) {
			t.Helper()
			certstest.Write(t, s.dir, "tls.crt", []byte("-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n"))
		}, "tls.crt"},
		"the key of another": {func(t *testing.T, s *served) {
			t.Helper()
			_, key := s.ca.Pair(t, "x", time.Hour)
			certstest.Write(t, s.dir, "tls.key", key)
		}, "tls.key"},
		"an encrypted key": {func(t *testing.T, s *served) {
			t.Helper()
			certstest.Write(t, s.dir, "tls.key", []byte("-----BEGIN ENCRYPTED PRIVATE KEY-----\naGVsbG8=\n-----END ENCRYPTED PRIVATE KEY-----\n"))
		}, "tls.key"},
		"an expired certificate": {func(t *testing.T, s *served) { t.Helper(); s.write(t, "late", -time.Minute) }, "tls.crt"},
		"a directory": {func(t *testing.T, s *served) {
			t.Helper()
			require.NoError(t, os.Remove(s.cfg.KeyFile))
			require.NoError(t, os.Mkdir(s.cfg.KeyFile, 0o700))
		}, "tls.key"},
		"a large file": {func(t *testing.T, s *served) {
			t.Helper()
			certstest.Write(t, s.dir, "tls.crt", make([]byte, maxFile+1))
		}, "tls.crt"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t)
			_, key := s.ca.Pair(t, "x", time.Hour)
			row.fault(t, s)
			s.checks(t, 5)
			require.Equal(t, "one", s.name(t, nil))
			log := s.log.String()
			require.Equal(t, 1, strings.Count(log, "\n"), log)
			require.Contains(t, log, row.file)
			require.NotContains(t, log, string(key[40:60]))
			_ = os.RemoveAll(s.cfg.KeyFile)
			s.write(t, "two", time.Hour)
			s.checks(t, 1)
			require.Equal(t, "two", s.name(t, nil))
		})
	}
}

func TestAClientWithoutAValidCertificateIsRefused(t *testing.T) {
	t.Parallel()
	ours, another := certstest.New(t, "ours"), certstest.New(t, "another")
	present := func(ca *certstest.Authority, life time.Duration) *tls.Config {
		cert, key := ca.Pair(t, "client", life)
		both, err := tls.X509KeyPair(cert, key)
		require.NoError(t, err)
		return &tls.Config{GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &both, nil }}
	}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, how := range []ClientAuth{"", Require, IfGiven} {
			s := open(t)
			s.cfg.ClientCAFile, s.cfg.ClientAuth = certstest.Write(t, s.dir, "clients.pem", ours.PEM), how
			s.checks(t, 1)
			for what, client := range map[string]*tls.Config{
				"none": {}, "another": present(another, time.Hour), "expired": present(ours, -time.Minute), "ours": present(ours, time.Hour),
			} {
				client.MaxVersion = version
				accepted := what == "ours" || what == "none" && how == IfGiven
				require.Equal(t, accepted, s.name(t, client) == "one", "%s %q %x", what, how, version)
			}
		}
	}
}

// A session that was begun under an authority must not outlive it.
func TestAnAuthorityThatIsRemovedRefusesSessions(t *testing.T) {
	t.Parallel()
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		s := open(t)
		old, next := certstest.New(t, "old"), certstest.New(t, "next")
		s.cfg.ClientCAFile = certstest.Write(t, s.dir, "clients.pem", old.PEM)
		s.checks(t, 1)
		cert, key := old.Pair(t, "client", time.Hour)
		both, err := tls.X509KeyPair(cert, key)
		require.NoError(t, err)
		client := &tls.Config{
			MaxVersion: version, ClientSessionCache: tls.NewLRUClientSessionCache(9),
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &both, nil },
		}
		require.True(t, s.current.Load().config.SessionTicketsDisabled, "Go checks a resumed session itself only in patched versions")
		require.Equal(t, "one", s.name(t, client))
		certstest.Write(t, s.dir, "clients.pem", next.PEM)
		s.checks(t, 1)
		require.NotEqual(t, "one", s.name(t, client), "%x", version)
	}
}

func TestVersionsBelowTheLowestAreRefused(t *testing.T) {
	t.Parallel()
	s := open(t)
	require.Equal(t, "one", s.name(t, &tls.Config{MaxVersion: tls.VersionTLS12}))                                               //nolint:gosec // a client without TLS 1.3
	require.Contains(t, s.name(t, &tls.Config{MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}), "protocol version") //nolint:gosec // an old client
	strict, err := Open(Server{CertFile: s.cfg.CertFile, KeyFile: s.cfg.KeyFile, MinVersion: TLS13}, s.log2())
	require.NoError(t, err)
	s.listener = strict.Config()
	require.Contains(t, s.name(t, &tls.Config{MaxVersion: tls.VersionTLS12}), "protocol version") //nolint:gosec // a client without TLS 1.3
	require.Equal(t, "one", s.name(t, &tls.Config{}))
}

func (s *served) log2() *slog.Logger { return slog.New(slog.NewTextHandler(s.log, nil)) }

func TestSettingsOfTLS(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		server Server
		want   string
	}{
		{Server{}, ""},
		{Server{CertFile: "a", KeyFile: "b"}, ""},
		{Server{CertFile: "a", KeyFile: "b", ClientCAFile: "c", ClientAuth: IfGiven}, ""},
		{Server{CertFile: "a"}, "cert_file: a certificate needs its key"},
		{Server{KeyFile: "a"}, "cert_file: a certificate needs its key"},
		{Server{ClientCAFile: "a"}, "client_ca_file: the listener speaks plain HTTP"},
		{Server{CertFile: "a", KeyFile: "b", ClientAuth: Require}, "client_auth: there is no authority"},
		{Server{CertFile: "a", KeyFile: "b", ClientCAFile: "c", ClientAuth: "maybe"}, `client_auth: unknown value "maybe"`},
		{Server{MinVersion: "1.1"}, `min_version: unknown value "1.1": expected 1.2 or 1.3`},
	} {
		var faults setting.Faults
		row.server.WithDefaults().Check(setting.NewChecker(&faults))
		if row.want == "" {
			require.NoError(t, faults.Err())
		} else {
			require.ErrorContains(t, faults.Err(), row.want)
		}
	}
}

// A client takes up a renewed certificate and authority, and keeps the old ones until the new files belong together.
func TestFilesOfAClientAreReadAgain(t *testing.T) {
	t.Parallel()
	dir, log := t.TempDir(), new(bytes.Buffer)
	old, next := certstest.New(t, "old"), certstest.New(t, "next")
	cfg := Client{CAFile: certstest.Write(t, dir, "ca.pem", old.PEM), ServerName: "x"}
	cfg.CertFile, cfg.KeyFile = old.WritePair(t, dir, "client")
	f, err := OpenClient(cfg, "redis.tls", slog.New(slog.NewTextHandler(log, nil)))
	require.NoError(t, err)
	issuer := func() string {
		cert, err := f.Config().GetClientCertificate(nil)
		require.NoError(t, err)
		trusted := "another"
		for _, ca := range []*certstest.Authority{old, next} {
			if f.Config().RootCAs.Equal(ca.Pool()) {
				trusted = ca.Name
			}
		}
		return "by " + cert.Leaf.Issuer.CommonName + ", trusts " + trusted
	}
	check := func() { f.check(t.Context()) }
	check()
	require.Equal(t, "by old, trusts old", issuer())
	certstest.Write(t, dir, "ca.pem", append(slices.Clone(old.PEM), next.PEM...))
	check()
	require.Equal(t, "by old, trusts another", issuer(), "both authorities are trusted")
	cert, key := next.Pair(t, "client", time.Hour)
	certstest.Write(t, dir, "client.pem", cert)
	check()
	require.Equal(t, "by old, trusts another", issuer(), "the key is not written yet")
	certstest.Write(t, dir, "client.key", key)
	certstest.Write(t, dir, "ca.pem", next.PEM)
	check()
	require.Equal(t, "by next, trusts next", issuer())
	require.Equal(t, "x", f.Config().ServerName)
	require.Equal(t, uint16(tls.VersionTLS12), f.Config().MinVersion)
	require.NotContains(t, log.String(), "ERROR")

	cert, key = next.Pair(t, "client", -time.Minute)
	certstest.Write(t, dir, "client.pem", cert)
	certstest.Write(t, dir, "client.key", key)
	check()
	check()
	check()
	require.Equal(t, "by next, trusts next", issuer())
	require.Equal(t, 1, strings.Count(log.String(), "ERROR"), log)
	require.Contains(t, log.String(), "setting=redis.tls")
	require.Contains(t, log.String(), "client.pem: the certificate has expired")
	require.NoError(t, os.Remove(cfg.CAFile))
	check()
	check()
	require.Contains(t, log.String(), "ca.pem: no such file")
	require.Equal(t, "by next, trusts next", issuer())
}

func TestFilesOfAClientHaveFaultsByTheirKeys(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca := certstest.New(t, "authority")
	cert, key := ca.WritePair(t, dir, "client")
	_, other := ca.WritePair(t, dir, "other")
	root, none := certstest.Write(t, dir, "ca.pem", ca.PEM), filepath.Join(dir, "none.pem")
	for _, row := range []struct {
		client Client
		want   []string
	}{
		{Client{}, nil},
		{Client{CAFile: root, CertFile: cert, KeyFile: key}, nil},
		{Client{CertFile: none}, nil}, // Check reports that the key is missing
		{Client{CAFile: none}, []string{"ca_file: cannot read " + none + ": no such file"}},
		{Client{CAFile: key}, []string{"ca_file: " + key + " has no certificate"}},
		{Client{CAFile: dir}, []string{"ca_file: cannot read " + dir}},
		{Client{CertFile: none, KeyFile: key}, []string{"cert_file: cannot read " + none}},
		{Client{CertFile: key, KeyFile: key}, []string{"cert_file: " + key + " has no certificate"}},
		{Client{CertFile: cert, KeyFile: none}, []string{"key_file: cannot read " + none}},
		{Client{CertFile: cert, KeyFile: other}, []string{"key_file: " + other + ": the key cannot be used with " + cert}},
		{Client{CAFile: none, CertFile: none, KeyFile: none}, []string{"ca_file: ", "cert_file: ", "key_file: "}},
	} {
		var faults setting.Faults
		row.client.CheckFiles(setting.NewChecker(&faults))
		if row.want == nil {
			require.NoError(t, faults.Err())
			continue
		}
		lines := strings.Split(faults.Err().Error(), "\n")
		require.Len(t, lines, len(row.want))
		for i, want := range row.want {
			require.Contains(t, lines[i], want)
		}
	}
}

func TestFilesOfAClientThatCannotBeUsedAreNamed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca := certstest.New(t, "authority")
	cert, key := ca.WritePair(t, dir, "client")
	root := certstest.Write(t, dir, "ca.pem", ca.PEM)
	cfg, err := Client{CAFile: root, CertFile: cert, KeyFile: key, ServerName: "x"}.Config()
	require.NoError(t, err)
	require.Equal(t, "x", cfg.ServerName)
	require.NotNil(t, cfg.RootCAs)
	_, err = Client{CAFile: key}.Config()
	require.ErrorContains(t, err, "client.key has no certificate")
	_, err = Client{CertFile: cert, KeyFile: root}.Config()
	require.ErrorContains(t, err, "ca.pem: the key cannot be used with")
	_, err = Client{CAFile: filepath.Join(dir, "none")}.Config()
	require.ErrorContains(t, err, "cannot read")
	require.Error(t, Client{CertFile: cert}.Complete())
}
