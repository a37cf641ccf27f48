// Package certs loads the certificates, keys and authorities for TLS from their files. [Files] and [ClientFiles]
// load them again when the files change. It does not check revocation lists (CRL) or ask for the status of a certificate (OCSP): a
// certificate of a client is valid until it expires, or until its authority is removed.
package certs

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/batchd/batchd/internal/setting"
)

// Server configures TLS of a listener. Relative paths in a configuration file are relative to the directory of
// that file.
type Server struct {
	// CertFile is a PEM file with the certificate of the server, and those between it and its authority.
	// Without it the listener speaks plain HTTP. Defaults to none.
	CertFile string `yaml:"cert_file"`
	// KeyFile is a PEM file with the private key of the certificate. Defaults to none.
	KeyFile string `yaml:"key_file"`
	// ClientCAFile is a PEM file with the authorities of the certificates of clients. With it, clients need a
	// certificate. Defaults to none.
	ClientCAFile string `yaml:"client_ca_file"`
	// ClientAuth is what the handshake asks of clients. Defaults to require if there is a ClientCAFile.
	ClientAuth ClientAuth `yaml:"client_auth"`
	// MinVersion is the lowest version of TLS. Defaults to 1.2.
	MinVersion Version `yaml:"min_version"`
}

// ClientAuth is what the handshake asks of clients.
type ClientAuth string

// The requirements of clients.
const (
	// Require refuses a client without a valid certificate.
	Require ClientAuth = "require"
	// IfGiven accepts a client without a certificate, and refuses one with a certificate that is not valid.
	IfGiven ClientAuth = "if_given"
)

// Choices implements [setting.Choice].
func (ClientAuth) Choices() []string { return []string{string(Require), string(IfGiven)} }

// Version is a version of TLS.
type Version string

// The versions.
const (
	TLS12 Version = "1.2"
	TLS13 Version = "1.3"
)

// Choices implements [setting.Choice].
func (Version) Choices() []string { return []string{string(TLS12), string(TLS13)} }

func (v Version) number() uint16 {
	if v == TLS13 {
		return tls.VersionTLS13
	}
	return tls.VersionTLS12
}

// Enabled reports whether the listener speaks TLS.
func (s Server) Enabled() bool { return s.CertFile != "" }

// WithDefaults returns the settings with zero values replaced.
func (s Server) WithDefaults() Server {
	if s.MinVersion == "" {
		s.MinVersion = TLS12
	}
	return s
}

// Check reports the faults of the settings. It does not read the files, which a worker process may lack.
func (s Server) Check(c *setting.Checker) {
	switch {
	case (s.CertFile == "") != (s.KeyFile == "") && !c.IsBroken("cert_file", "key_file"):
		c.Faultf("cert_file", "a certificate needs its key: set cert_file and key_file, or neither")
	case s.ClientCAFile != "" && s.CertFile == "" && !c.IsBroken("cert_file"):
		c.Faultf("client_ca_file", "the listener speaks plain HTTP, where clients have no certificates: set cert_file and key_file")
	case s.ClientAuth != "" && s.ClientCAFile == "" && !c.IsBroken("client_ca_file"):
		c.Faultf("client_auth", "there is no authority for the certificates of clients: set client_ca_file")
	}
	if s.ClientAuth != "" {
		c.Choice("client_auth", string(s.ClientAuth), s.ClientAuth.Choices())
	}
	c.Choice("min_version", string(s.MinVersion), s.MinVersion.Choices())
}

// CheckFiles reports the files that cannot be read or used.
func (s Server) CheckFiles(c *setting.Checker) {
	checkAuthorities(c, "client_ca_file", s.ClientCAFile)
	checkPair(c, s.CertFile, s.KeyFile)
}

// Client configures TLS of a client. Relative paths in a configuration file are relative to the directory of that
// file.
type Client struct {
	// CAFile is a PEM file with the authorities of the server's certificate. Defaults to those of the system.
	CAFile string `yaml:"ca_file"`
	// CertFile and KeyFile are PEM files with the certificate of the client and its private key. Default to none.
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`
	// ServerName is the name in the server's certificate. Defaults to the host of the address.
	ServerName string `yaml:"server_name"`
}

// Check reports the faults of the settings. It does not read the files.
func (t Client) Check(c *setting.Checker) {
	c.Check("cert_file", t.Complete())
	if name := t.ServerName; name != "" && net.ParseIP(name) == nil && strings.ContainsAny(name, ":/@ ") {
		c.Faultf("server_name", "the value is not the name of a host: expected one without a scheme and a port, for example redis.example.com")
	}
}

// CheckFiles reports the files that cannot be read or used.
func (t Client) CheckFiles(c *setting.Checker) {
	checkAuthorities(c, "ca_file", t.CAFile)
	checkPair(c, t.CertFile, t.KeyFile)
}

// checkAuthorities reports a file with authorities, if there is one, that cannot be read or used.
func checkAuthorities(c *setting.Checker, setting, file string) {
	if file == "" {
		return
	}
	_, err := Authorities(file)
	c.Check(setting, err)
}

// checkPair reports the files of a certificate and its key that cannot be read or used.
func checkPair(c *setting.Checker, certFile, keyFile string) {
	if certFile == "" || keyFile == "" {
		return // a fault of its own, or none
	}
	cert, err := read(certFile)
	if err == nil {
		_, err = certificates(certFile, cert)
	}
	c.Check("cert_file", err)
	key, keyErr := read(keyFile)
	if err == nil && keyErr == nil {
		_, keyErr = pair(certFile, cert, keyFile, key)
	}
	c.Check("key_file", keyErr)
}

// FirstSet returns the key of the first setting that has a value, or "".
func (t Client) FirstSet() string {
	for _, s := range []struct{ key, value string }{
		{"ca_file", t.CAFile}, {"cert_file", t.CertFile}, {"key_file", t.KeyFile}, {"server_name", t.ServerName},
	} {
		if s.value != "" {
			return s.key
		}
	}
	return ""
}

// Complete returns an error if the certificate has no key, or the key no certificate.
func (t Client) Complete() error {
	if (t.CertFile == "") != (t.KeyFile == "") {
		return errors.New("a certificate of the client needs its key, and a key its certificate: set both or neither")
	}
	return nil
}

// Config reads the files, and returns the configuration of a client. It reads the certificate and its key again
// for every handshake.
func (t Client) Config() (*tls.Config, error) {
	l, err := t.load()
	if err != nil {
		return nil, err
	}
	if l.config.GetClientCertificate != nil {
		l.config.GetClientCertificate = func(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			now, err := t.load()
			if err != nil {
				return nil, err
			}
			return now.config.GetClientCertificate(info)
		}
	}
	return l.config, nil
}

// maxFile is the most bytes of a file. Some bundles of authorities have several hundred KiB.
const maxFile = 4 << 20

func read(name string) ([]byte, error) {
	content, err := setting.ReadFile(name, maxFile)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", name, err)
	}
	return content, nil
}

// certificates returns all certificates in a PEM file.
func certificates(name string, content []byte) ([]*x509.Certificate, error) {
	var found []*x509.Certificate
	for rest := content; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: certificate %d cannot be parsed: %w", name, len(found)+1, err)
		}
		found = append(found, cert)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%s has no certificate: expected a PEM file with BEGIN CERTIFICATE", name)
	}
	return found, nil
}

func authorities(name string, content []byte) (*x509.CertPool, error) {
	found, err := certificates(name, content)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	for _, cert := range found {
		pool.AddCert(cert)
	}
	return pool, nil
}

// Authorities returns the certificate authorities in a PEM file. The error names the file.
func Authorities(name string) (*x509.CertPool, error) {
	content, err := read(name)
	if err != nil {
		return nil, err
	}
	return authorities(name, content)
}

// pair returns a certificate with its key. The errors name the file with the fault.
func pair(certFile string, cert []byte, keyFile string, key []byte) (*tls.Certificate, error) {
	if _, err := certificates(certFile, cert); err != nil {
		return nil, err
	}
	if bytes.Contains(key, []byte("ENCRYPTED")) {
		return nil, fmt.Errorf("%s: the key is encrypted, and batchd has no passphrase: decrypt it", keyFile)
	}
	both, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("%s: the key cannot be used with %s: %w", keyFile, certFile, err)
	}
	return &both, nil
}
