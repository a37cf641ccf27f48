package main

import (
	"cmp"
	"crypto/tls"
	"os"

	"github.com/spf13/cobra"

	"github.com/batchd/batchd/internal/certs"
	"github.com/batchd/batchd/internal/config"
)

// trust is what a command needs to speak TLS with a server.
type trust struct{ certs.Client }

func (t *trust) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&t.CAFile, "ca-file", "", "a PEM `file` with the authorities of the server's certificate (or BATCHD_CA_FILE;\ndefault: those of the system)")
	cmd.Flags().StringVar(&t.CertFile, "cert-file", "", "a PEM `file` with a certificate to show to the server (or BATCHD_CERT_FILE)")
	cmd.Flags().StringVar(&t.KeyFile, "key-file", "", "a PEM `file` with the key of that certificate (or BATCHD_KEY_FILE)")
	cmd.Flags().StringVar(&t.ServerName, "server-name", "", "the `name` in the server's certificate (or BATCHD_SERVER_NAME; default: the\nhost of the URL)")
}

// config returns the configuration of TLS, or nil if neither flags nor variables set one.
func (t *trust) config() (*tls.Config, error) {
	files := certs.Client{
		CAFile: cmp.Or(t.CAFile, os.Getenv(config.CAVariable)), CertFile: cmp.Or(t.CertFile, os.Getenv(config.CertVariable)),
		KeyFile: cmp.Or(t.KeyFile, os.Getenv(config.KeyVariable)), ServerName: cmp.Or(t.ServerName, os.Getenv(config.NameVariable)),
	}
	if files == (certs.Client{}) {
		return nil, nil
	}
	if err := files.Complete(); err != nil {
		return nil, err
	}
	return files.Config()
}
