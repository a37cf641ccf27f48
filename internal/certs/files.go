package certs

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"
)

// every is how often [Files.Watch] reads the files.
const every = 2 * time.Second

// Files are the files of a server, as they were when all of them could last be used together.
type Files struct {
	watched
	cfg Server
}

// watched are the files of one setting, as they were when all of them could last be used together.
type watched struct {
	// setting is the path of the setting, for the log.
	setting string
	log     *slog.Logger
	load    func() (*loaded, error)
	// current is the configuration of the connections from now on.
	current atomic.Pointer[loaded]
	// fault is that of the last check, and reported tells whether it was logged.
	fault    string
	reported bool
}

// loaded is the configuration that the files gave.
type loaded struct {
	hash   [sha256.Size]byte
	config *tls.Config
	// file is that of the certificate, which expires at notAfter, or zero if there is only an authority.
	file     string
	notAfter time.Time
}

// Open reads the files. It returns an error that names the file with a fault.
func Open(cfg Server, log *slog.Logger) (*Files, error) {
	f := &Files{cfg: cfg.WithDefaults()}
	if err := f.open("server.tls", log, func() (*loaded, error) { return f.cfg.load() }); err != nil {
		return nil, err
	}
	return f, nil
}

// open reads the files for the first time. A logger that is nil discards.
func (f *watched) open(setting string, log *slog.Logger, load func() (*loaded, error)) error {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	f.setting, f.log, f.load = setting, log, load
	l, err := load()
	if err != nil {
		return err
	}
	f.current.Store(l)
	if !l.notAfter.IsZero() && time.Now().After(l.notAfter) {
		log.Warn("the certificate has expired, so the other side refuses it", "setting", setting, "file", l.file, "not_after", l.notAfter)
	}
	return nil
}

// Config returns the configuration of a listener. Each handshake uses the files as they were read last.
func (f *Files) Config() *tls.Config {
	return &tls.Config{
		MinVersion:         f.cfg.MinVersion.number(),
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return f.current.Load().config, nil },
	}
}

// NotAfter is when the certificate of the server expires.
func (f *Files) NotAfter() time.Time { return f.current.Load().notAfter }

// ClientFiles are the files of a client, as they were when all of them could last be used together.
type ClientFiles struct{ watched }

// OpenClient reads the files of a setting, such as "redis.tls". It returns an error that names the file with a
// fault.
func OpenClient(cfg Client, setting string, log *slog.Logger) (*ClientFiles, error) {
	f := new(ClientFiles)
	if err := f.open(setting, log, cfg.load); err != nil {
		return nil, err
	}
	return f, nil
}

// Config returns the configuration of the next handshake, which the caller must not change.
func (f *ClientFiles) Config() *tls.Config { return f.current.Load().config }

// Watch reads the files every two seconds until the context ends. It needs no signal, and sees files that are
// replaced, written in place, or reached through a symbolic link that is replaced.
func (f *watched) Watch(ctx context.Context) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			f.check(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// check takes the content of the files, if it has changed and can be used. Otherwise what is in use stays. A
// certificate and its key are two files, so a fault may be over at the next check: check logs one that it sees
// twice, once.
func (f *watched) check(ctx context.Context) {
	old := f.current.Load()
	l, err := f.load()
	if err == nil && l.hash != old.hash && time.Now().After(l.notAfter) && time.Now().Before(old.notAfter) {
		err = fmt.Errorf("%s: the certificate has expired at %s", l.file, l.notAfter.Format(time.RFC3339))
	}
	switch {
	case err != nil && err.Error() != f.fault:
		f.fault, f.reported = err.Error(), false
	case err != nil && !f.reported:
		f.reported = true
		f.log.ErrorContext(ctx, "the new certificate cannot be used, the old one stays in use", "setting", f.setting, "error", err, "not_after", old.notAfter)
	case err != nil:
	default:
		f.fault = ""
		if l.hash != old.hash {
			f.current.Store(l)
			f.log.InfoContext(ctx, "the certificate was loaded again", "setting", f.setting, "file", l.file, "not_after", l.notAfter)
		}
	}
}

// contents reads files, and hashes what is in them. It skips those without a name.
func contents(names ...string) (content [][]byte, hash [sha256.Size]byte, err error) {
	all := sha256.New()
	content = make([][]byte, len(names))
	for i, name := range names {
		if name == "" {
			continue
		}
		if content[i], err = read(name); err != nil {
			return nil, hash, err
		}
		sum := sha256.Sum256(content[i])
		all.Write(sum[:])
	}
	return content, [sha256.Size]byte(all.Sum(nil)), nil
}

// load reads all files.
func (s Server) load() (*loaded, error) {
	content, hash, err := contents(s.CertFile, s.KeyFile, s.ClientCAFile)
	if err != nil {
		return nil, err
	}
	cert, err := pair(s.CertFile, content[0], s.KeyFile, content[1])
	if err != nil {
		return nil, err
	}
	config := &tls.Config{
		MinVersion: s.MinVersion.number(), Certificates: []tls.Certificate{*cert},
		// The bounds of the API count connections, each of which has one request at a time in HTTP/1.1.
		NextProtos: []string{"http/1.1"},
	}
	if s.ClientCAFile != "" {
		if config.ClientCAs, err = authorities(s.ClientCAFile, content[2]); err != nil {
			return nil, err
		}
		config.ClientAuth = tls.RequireAndVerifyClientCert
		if s.ClientAuth == IfGiven {
			config.ClientAuth = tls.VerifyClientCertIfGiven
		}
		// A session that is resumed would not need a certificate of the present authorities.
		config.SessionTicketsDisabled = true
	}
	return &loaded{hash: hash, config: config, file: s.CertFile, notAfter: cert.Leaf.NotAfter}, nil
}

// load reads all files.
func (t Client) load() (*loaded, error) {
	content, hash, err := contents(t.CAFile, t.CertFile, t.KeyFile)
	if err != nil {
		return nil, err
	}
	l := &loaded{hash: hash, config: &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}, file: t.CAFile}
	if t.CAFile != "" {
		if l.config.RootCAs, err = authorities(t.CAFile, content[0]); err != nil {
			return nil, err
		}
	}
	if t.CertFile != "" || t.KeyFile != "" {
		cert, err := pair(t.CertFile, content[1], t.KeyFile, content[2])
		if err != nil {
			return nil, err
		}
		// A server that does not accept the certificate then says so, because the client sends it in any case.
		l.config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
		l.file, l.notAfter = t.CertFile, cert.Leaf.NotAfter
	}
	return l, nil
}
