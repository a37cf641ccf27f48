package dispatch

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/url"
)

// Probe makes a connection to the target, with the TLS handshake where there is
// one, and sends nothing over it. A target behind a proxy is reached if its
// proxy is. It implements [batch.Prober].
func (d *Dispatcher) Probe(ctx context.Context, name string) error {
	t := d.targets[name]
	if t == nil {
		return fmt.Errorf("probe target %q: it is not configured here", name)
	}
	at, direct := t.base, true
	if t.Proxy != "" {
		proxy, err := url.Parse(t.Proxy)
		if err != nil {
			return fmt.Errorf("probe target %q: its proxy's URL cannot be parsed", name)
		}
		at, direct = proxy, false
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", hostPort(at))
	if err != nil {
		return fmt.Errorf("probe target %q: %w", name, err)
	}
	defer conn.Close()
	if !direct || at.Scheme != "https" {
		return nil
	}
	config := t.transport.TLSClientConfig.Clone()
	config.ServerName = at.Hostname()
	if err := tls.Client(conn, config).HandshakeContext(ctx); err != nil {
		return fmt.Errorf("probe target %q: %w", name, err)
	}
	return nil
}
