package webhook

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"code.dny.dev/ssrf"
	"golang.org/x/net/idna"

	"github.com/batchd/batchd/internal/setting"
)

// ErrHost means that a webhook must not be sent to the host of its URL. It is one error
// for all reasons, so that it tells nothing about names and addresses within a network.
var ErrHost = errors.New("webhooks are not sent to this host: expected a public one that the server's settings allow")

// CheckURL checks where a webhook of an owner goes. Further lists the hosts that the owner's
// credential allows; nil means all. It does not resolve the name: [Config.Control] checks
// the address. Its errors do not repeat the URL, which may contain a secret.
func (c Config) CheckURL(raw, owner string, further []string) error {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		return errors.New("expected an absolute http or https URL")
	case u.User != nil:
		return errors.New("the URL holds a user name or password: webhooks are signed, so they need none")
	}
	port, err := portOf(u)
	if err != nil {
		return err
	}
	host, ok := canonicalHost(u.Hostname())
	if !ok || !c.AllowPrivate && !isPublicHost(host) || !c.allowsHost(owner, host) || further != nil && !slices.ContainsFunc(further, matches(host)) {
		return ErrHost
	}
	if c.Ports != nil && !slices.Contains(c.Ports, port) {
		return fmt.Errorf("the port %d is not open for webhooks: expected %s", port, setting.OneOf(texts(c.Ports)))
	}
	return nil
}

func texts(numbers []int) []string {
	out := make([]string, len(numbers))
	for i, n := range numbers {
		out[i] = strconv.Itoa(n)
	}
	return out
}

func portOf(u *url.URL) (int, error) {
	switch text := u.Port(); {
	case text != "":
		port, err := strconv.ParseUint(text, 10, 16)
		if err != nil || port == 0 {
			return 0, fmt.Errorf("the port of the URL is %s: expected 1 to 65535", setting.Clip(text))
		}
		return int(port), nil
	case u.Scheme == "https":
		return 443, nil
	}
	return 80, nil
}

// canonicalHost returns a host as a resolver gets it: an address, or a name in lower case
// and in ASCII, without a dot at its end.
func canonicalHost(host string) (string, bool) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.String(), true
	}
	ascii, err := idna.Lookup.ToASCII(host)
	if err != nil {
		// Names with an underscore are not valid, but exist.
		if ascii = strings.ToLower(host); !isPlainHost(ascii) {
			return "", false
		}
	}
	ascii = strings.TrimSuffix(ascii, ".")
	if ip, err := netip.ParseAddr(ascii); err == nil {
		return ip.String(), true
	}
	return ascii, !slices.Contains(strings.Split(ascii, "."), "")
}

func isPlainHost(host string) bool {
	for i := range len(host) {
		switch c := host[i]; {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '_', c == '.':
		default:
			return false
		}
	}
	return true
}

// privateSuffixes are domains whose names only local resolvers know.
var privateSuffixes = []string{
	".localhost", ".localdomain", ".local", ".internal", ".intranet", ".private", ".corp", ".home", ".lan", ".home.arpa", ".in-addr.arpa", ".ip6.arpa",
	".test", ".invalid", ".onion", ".svc",
}

// isPublicHost reports whether a canonical host can be public.
func isPublicHost(host string) bool {
	if ip, err := netip.ParseAddr(host); err == nil {
		return isPublic(ip)
	}
	labels := strings.Split(host, ".")
	last := labels[len(labels)-1]
	// Some resolvers take a name that ends in a number for an address: 2130706433, 0x7f.1,
	// 127.1, 0177.0.0.1.
	if len(labels) == 1 || isNumber(last) {
		return false
	}
	return !slices.ContainsFunc(privateSuffixes, func(suffix string) bool { return strings.HasSuffix(host, suffix) })
}

func isNumber(label string) bool {
	if hex, ok := strings.CutPrefix(label, "0x"); ok {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return strings.Trim(label, "0123456789") == ""
}

// guard has the prefixes of the IANA registries of special addresses, and beyond them the
// address at which Azure serves its machines.
var guard = ssrf.New(ssrf.WithAnyPort(), ssrf.WithDeniedV4Prefixes(netip.MustParsePrefix("168.63.129.16/32")))

// isPublic reports whether webhooks may be sent to an address. Addresses that contain
// another one (6to4, Teredo, NAT64) are not public, whatever that one is.
func isPublic(ip netip.Addr) bool {
	if ip.Zone() != "" || ip.Is4In6() {
		return false
	}
	network := "tcp6"
	if ip.Is4() {
		network = "tcp4"
	}
	return ip.IsGlobalUnicast() && !ip.IsPrivate() && guard.Safe(network, netip.AddrPortFrom(ip, 443).String(), nil) == nil
}

// Control is a [net.Dialer]'s: it refuses the address of a connection. Only here it is
// known which address a name has at this moment.
func (c Config) Control(network, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	switch {
	case err != nil || network != "tcp4" && network != "tcp6":
		return ErrHost
	case c.Ports != nil && !slices.Contains(c.Ports, int(to.Port())):
		return ErrHost
	case c.AllowPrivate || isPublic(to.Addr()):
		return nil
	}
	return ErrHost
}

// allowsHost reports whether the rules let an owner name a host. Where there are rules, an owner that none
// of them names has no host.
func (c Config) allowsHost(owner, host string) bool {
	for _, rule := range c.Hosts {
		if matchesOwner(rule.Owner, owner) {
			return slices.ContainsFunc(rule.Allow, matches(host))
		}
	}
	return len(c.Hosts) == 0
}

// matches returns a function that reports whether a pattern matches a canonical host.
func matches(host string) func(pattern string) bool {
	return func(pattern string) bool {
		if pattern == everyHost {
			return true
		}
		if parent, ok := strings.CutPrefix(pattern, "*."); ok {
			parent, ok = canonicalHost(parent)
			return ok && strings.HasSuffix(host, "."+parent)
		}
		want, ok := canonicalHost(strings.Trim(pattern, "[]"))
		return ok && want == host
	}
}

// matchesOwner reports whether a pattern matches an owner: "*" stands for any text.
func matchesOwner(pattern, owner string) bool {
	parts := strings.Split(pattern, "*")
	rest, ok := strings.CutPrefix(owner, parts[0])
	if !ok || len(parts) == 1 {
		return ok && rest == ""
	}
	for _, part := range parts[1 : len(parts)-1] {
		_, after, found := strings.Cut(rest, part)
		if !found {
			return false
		}
		rest = after
	}
	return strings.HasSuffix(rest, parts[len(parts)-1])
}
