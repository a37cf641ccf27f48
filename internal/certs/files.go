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
	cfg Server
	log *slog.Logger
	// current is the configuration of the connections from now on.
	current atomic.Pointer[loaded]
	// fault is that of the last check, and reported tells whether it was logged.
	fault    string
	reported bool
}

// loaded is the configuration that the files gave.
type loaded struct {
	hash     [sha256.Size]byte
	config   *tls.Config
	notAfter time.Time
}

// Open reads the files. It returns an error that names the file with a fault.
func Open(cfg Server, log *slog.Logger) (*Files, error) {
	f := &Files{cfg: cfg.WithDefaults(), log: log}
	l, err := f.load()
	if err != nil {
		return nil, err
	}
	f.current.Store(l)
	if time.Now().After(l.notAfter) {
		log.Warn("the certificate has expired, so clients refuse it", "file", cfg.CertFile, "not_after", l.notAfter)
	}
	return f, nil
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

// Watch reads the files every two seconds until the context ends. It needs no signal, and sees files that are
// replaced, written in place, or reached through a symbolic link that is replaced.
func (f *Files) Watch(ctx context.Context) {
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
func (f *Files) check(ctx context.Context) {
	old := f.current.Load()
	l, err := f.load()
	if err == nil && l.hash != old.hash && time.Now().After(l.notAfter) && time.Now().Before(old.notAfter) {
		err = fmt.Errorf("%s: the certificate has expired at %s", f.cfg.CertFile, l.notAfter.Format(time.RFC3339))
	}
	switch {
	case err != nil && err.Error() != f.fault:
		f.fault, f.reported = err.Error(), false
	case err != nil && !f.reported:
		f.reported = true
		f.log.ErrorContext(ctx, "the new certificate cannot be used, the old one stays in use", "error", err, "not_after", old.notAfter)
	case err != nil:
	default:
		f.fault = ""
		if l.hash != old.hash {
			f.current.Store(l)
			f.log.InfoContext(ctx, "the certificate was loaded again", "file", f.cfg.CertFile, "not_after", l.notAfter)
		}
	}
}

// load reads all files.
func (f *Files) load() (*loaded, error) {
	var content [3][]byte
	hash := sha256.New()
	for i, name := range []string{f.cfg.CertFile, f.cfg.KeyFile, f.cfg.ClientCAFile} {
		if name == "" {
			continue
		}
		var err error
		if content[i], err = read(name); err != nil {
			return nil, err
		}
		sum := sha256.Sum256(content[i])
		hash.Write(sum[:])
	}
	cert, err := pair(f.cfg.CertFile, content[0], f.cfg.KeyFile, content[1])
	if err != nil {
		return nil, err
	}
	config := &tls.Config{
		MinVersion: f.cfg.MinVersion.number(), Certificates: []tls.Certificate{*cert},
		// The bounds of the API count connections, each of which has one request at a time in HTTP/1.1.
		NextProtos: []string{"http/1.1"},
	}
	if f.cfg.ClientCAFile != "" {
		if config.ClientCAs, err = authorities(f.cfg.ClientCAFile, content[2]); err != nil {
			return nil, err
		}
		config.ClientAuth = tls.RequireAndVerifyClientCert
		if f.cfg.ClientAuth == IfGiven {
			config.ClientAuth = tls.VerifyClientCertIfGiven
		}
		// A session that is resumed would not need a certificate of the present authorities.
		config.SessionTicketsDisabled = true
	}
	return &loaded{hash: [sha256.Size]byte(hash.Sum(nil)), config: config, notAfter: cert.Leaf.NotAfter}, nil
}
