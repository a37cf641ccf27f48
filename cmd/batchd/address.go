package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// bareAddress matches host:port, with or without a path. Such a text has no secret.
var bareAddress = regexp.MustCompile(`^([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}(/[a-z]*)?$`)

// checkScheme refuses the URL of a server without http:// or https://. Other texts may be a secret, so the error
// repeats only an address.
func checkScheme(source, text string) error {
	switch {
	case bareAddress.MatchString(text):
		return fmt.Errorf("%s: %q has no scheme: expected http://%s or https://%s", source, text, text, text)
	case !strings.Contains(text, "://"):
		return fmt.Errorf("%s: the value has no scheme: expected a URL such as http://127.0.0.1:8080", source)
	}
	return nil
}

// The alerts of TLS by which a server refuses the certificate of a client (RFC 8446 §6.2).
var refusedCertificate = map[tls.AlertError]bool{42: true, 43: true, 44: true, 45: true, 46: true, 48: true}

const errCertificateRequired tls.AlertError = 116

// withAdvice adds to an error of a connection what the flags of TLS can do about it.
func withAdvice(err error) error {
	var advice string
	alert, refused := errors.AsType[tls.AlertError](err)
	switch {
	case errors.As(err, new(x509.UnknownAuthorityError)):
		advice = "name a file with the authority of the server's certificate with --ca-file or BATCHD_CA_FILE"
	case errors.As(err, new(x509.HostnameError)):
		advice = "name the host of the server's certificate in the URL, or with --server-name or BATCHD_SERVER_NAME"
	case errors.As(err, new(tls.RecordHeaderError)), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		advice = "the server does not speak TLS there: use an http:// URL"
	case refused && alert == errCertificateRequired:
		advice = "the server asks for a certificate: name one with --cert-file and --key-file, or BATCHD_CERT_FILE and BATCHD_KEY_FILE"
	case refused && refusedCertificate[alert]:
		advice = "the server refuses the certificate of --cert-file or BATCHD_CERT_FILE: name one of an authority that the server trusts"
	default:
		return err
	}
	return fmt.Errorf("%w: %s", err, advice)
}
