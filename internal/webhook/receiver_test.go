package webhook_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/setting"
	"github.com/batchd/batchd/internal/webhook"
)

// privateAddresses are addresses to which no webhook may go, by the reason.
var privateAddresses = map[string]string{
	"this network":       "0.0.0.0 0.0.0.1 0.1.2.3 0.255.255.255 ::",
	"loopback":           "127.0.0.1 127.0.0.53 127.1.2.3 127.255.255.254 ::1",
	"private":            "10.0.0.1 10.255.255.255 172.16.0.1 172.31.255.254 192.168.0.1 192.168.255.255",
	"shared":             "100.64.0.1 100.100.100.200 100.127.255.255",
	"link-local":         "169.254.0.1 169.254.169.254 169.254.170.2 fe80::1 fe80::1%eth0 febf::1",
	"special":            "192.0.0.1 192.0.0.170 192.0.0.192 192.0.2.1 198.51.100.1 203.0.113.1 198.18.0.1 198.19.255.255 192.88.99.1",
	"multicast":          "224.0.0.1 239.255.255.250 ff02::1 ff0e::1 ff05::1:3",
	"reserved":           "240.0.0.1 254.255.255.255 255.255.255.255",
	"a cloud's machines": "168.63.129.16 fd00:ec2::254 fd20:ce::254",
	"unique local":       "fc00::1 fd12:3456:789a::1",
	"mapped":             "::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 ::ffff:7f00:1 ::ffff:8.8.8.8",
	"compatible":         "::127.0.0.1 ::a00:1 ::ffff:0:127.0.0.1",
	"NAT64":              "64:ff9b::7f00:1 64:ff9b::127.0.0.1 64:ff9b::a9fe:a9fe 64:ff9b::808:808 64:ff9b:1::1",
	"6to4":               "2002:7f00:1:: 2002:a00:1::1 2002:a9fe:a9fe::1 2002:808:808::1",
	"Teredo":             "2001::1 2001:0:4136:e378:8000:63bf:3fff:fdd2",
	"documentation":      "2001:db8::1 3fff::1 100::1 2001:2::1 2001:10::1 2001:20::1",
	"unassigned":         "1::1 4000::1 8000::1 5f00::1 fec0::1",
}

func TestOnlyPublicAddressesAreDialled(t *testing.T) {
	t.Parallel()
	cases := 0
	private := webhook.Config{AllowPrivate: true}
	public := webhook.Config{}.WithDefaults()
	for kind, list := range privateAddresses {
		for text := range strings.FieldsSeq(list) {
			cases++
			ip := netip.MustParseAddr(text)
			network := "tcp6"
			if ip.Is4() {
				network = "tcp4"
			}
			address := netip.AddrPortFrom(ip, 443).String()
			require.ErrorIs(t, public.Control(network, address, nil), webhook.ErrHost, "%s: %s", kind, text)
			require.NoError(t, private.Control(network, address, nil), text)
			require.Equal(t, webhook.ErrHost, public.CheckURL("https://"+inURL(text)+"/hook", "me", nil), "%s: %s", kind, text)
		}
	}
	require.Greater(t, cases, 70)
	for _, text := range []string{"8.8.8.8", "1.1.1.1", "93.184.215.14", "2606:4700:4700::1111", "2a00:1450:4001:80f::200e"} {
		ip := netip.MustParseAddr(text)
		network := "tcp6"
		if ip.Is4() {
			network = "tcp4"
		}
		require.NoError(t, public.Control(network, netip.AddrPortFrom(ip, 443).String(), nil), text)
		require.ErrorIs(t, public.Control(network, netip.AddrPortFrom(ip, 6379).String(), nil), webhook.ErrHost, text)
		require.ErrorIs(t, public.Control("udp", netip.AddrPortFrom(ip, 443).String(), nil), webhook.ErrHost, text)
		require.NoError(t, public.CheckURL("https://"+inURL(text)+"/hook", "me", nil), text)
	}
	require.ErrorIs(t, public.Control("tcp4", "nonsense", nil), webhook.ErrHost)
}

// inURL returns an address as the host of a URL.
func inURL(address string) string {
	if strings.Contains(address, ":") {
		return "[" + strings.Replace(address, "%", "%25", 1) + "]"
	}
	return address
}

// privateHosts are hosts of URLs that some resolver takes for a private address, or that
// no public resolver knows.
const privateHosts = `2130706433 0x7f000001 0x7F.0.0.1 0x7f.1 017700000001 0177.0.0.1 0177.1 127.1 127.0.1 10.1 3232235521 2852039166 0xa9fea9fe
	169.254.43518 0251.0376.0251.0376 0xa9.0xfe.0xa9.0xfe 1.2.3.4.5 foo.1 foo.0x7f 256.256.256.256 127.0.0.1. 127.0.0.1.. 010.0.0.1 0.0.0.0. 1e3.4
	localhost LOCALHOST localhost. foo.localhost localhost.localdomain ip6-localhost redis kubernetes.default.svc db.internal metadata.google.internal
	metadata.google.internal. printer.local router.lan nas.home.arpa host.docker.internal 1.0.0.127.in-addr.arpa x.test x.invalid x.onion box.corp
	１２７.0.0.1 ①②⑦.⓪.⓪.① 127。0。0。1 127｡0｡0｡1 ⓛⓞⓒⓐⓛⓗⓞⓢⓣ ｌｏｃａｌｈｏｓｔ ₁₂₇.0.0.1 metadata。google。internal ｄｂ.internal
	[::ffff:7f00:1] [0:0:0:0:0:0:0:1] [::] [::1%25lo] [fe80::1%25eth0] [64:ff9b::7f00:1] [2002:7f00:1::] .. a..b`

func TestHostsThatAreNotPublicAreRefusedWithOneText(t *testing.T) {
	t.Parallel()
	public := webhook.Config{}.WithDefaults()
	cases := 0
	for host := range strings.FieldsSeq(privateHosts) {
		cases++
		err := public.CheckURL("http://"+host+"/hush", "me", nil)
		require.Error(t, err, host)
		require.NotContains(t, err.Error(), "hush")
		if !strings.Contains(host, "..") && host != "1e3.4" {
			require.Equal(t, webhook.ErrHost, err, host)
		}
	}
	require.Greater(t, cases, 60)
	for _, host := range []string{
		"example.com", "EXAMPLE.com", "example.com.", "hooks.example.co.uk", "xn--bcher-kva.example", "bücher.example", "例え.jp", "a_b.example.com", "1.example.com", "0x7f.example.com",
		"8.8.8.8", "[2606:4700:4700::1111]", "127.0.0.1.nip.io", "localhost.example.com", "internal.example.com",
	} {
		require.NoError(t, public.CheckURL("https://"+host+"/", "me", nil), host)
	}
	for _, raw := range []string{"", "/hook", "gopher://example.com/", "https://", "https:///x", "http://u:hush@example.com/", "http://%31%32%37.0.0.1/", "https://example.com:0/", "https://example.com:65536/", "ftp://example.com"} {
		err := public.CheckURL(raw, "me", nil)
		require.Error(t, err, raw)
		require.NotContains(t, err.Error(), "hush")
	}
}

func TestPortsOfWebhooks(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		ports []int
		url   string
		says  string
	}{
		{nil, "http://example.com:8080/", "the port 8080 is not open for webhooks: expected 80 or 443"},
		{nil, "http://example.com:22/", "the port 22"},
		{nil, "https://example.com:80/", ""},
		{nil, "http://example.com:443/", ""},
		{[]int{8443}, "https://example.com/", "the port 443 is not open for webhooks: expected 8443"},
		{[]int{8443}, "https://example.com:8443/", ""},
	} {
		err := webhook.Config{Ports: tt.ports}.WithDefaults().CheckURL(tt.url, "me", nil)
		if tt.says == "" {
			require.NoError(t, err, tt.url)
		} else {
			require.ErrorContains(t, err, tt.says)
		}
	}
	require.NoError(t, webhook.Config{AllowPrivate: true}.WithDefaults().CheckURL("http://127.0.0.1:39999/", "me", nil))
	// A port does not tell a host that is not allowed from one that is.
	require.Equal(t, webhook.ErrHost, webhook.Config{}.WithDefaults().CheckURL("http://127.0.0.1:39999/", "me", nil))
}

func TestHostsOfAnOwner(t *testing.T) {
	t.Parallel()
	c := webhook.Config{Hosts: []webhook.HostRule{
		{Owner: "key:team-*", Allow: []string{"hooks.example.com", "*.example.org"}},
		{Owner: "key:mute", Allow: []string{}},
		{Owner: "key:free", Allow: []string{"*"}},
		{Owner: "*-eu-*x", Allow: []string{"bücher.example", "[2606:4700::1]"}},
	}}
	for _, tt := range []struct {
		owner, host string
		allowed     bool
	}{
		{"key:team-1", "hooks.example.com", true},
		{"key:team-1", "HOOKS.example.COM.", true},
		{"key:team-", "a.b.example.org", true},
		{"key:team-1", "example.org", false},
		{"key:team-1", "evil-example.org", false},
		{"key:team-1", "example.com", false},
		{"key:team-1", "a.hooks.example.com", false},
		{"key:team-1", "hooks.example.com.evil.com", false},
		{"key:mute", "hooks.example.com", false},
		{"key:muted", "anything.com", false},
		{"key:other", "anything.com", false},
		{"a-eu-bx", "xn--bcher-kva.example", true},
		{"a-eu-bx", "[2606:4700:0::1]", true},
		{"a-eu-bx", "hooks.example.com", false},
		{"a-eu-b", "anything.com", false},
		{"key:free", "anything.com", true},
	} {
		err := c.CheckURL("https://"+tt.host+"/", tt.owner, nil)
		if tt.allowed {
			require.NoError(t, err, "%s %s", tt.owner, tt.host)
		} else {
			require.Equal(t, webhook.ErrHost, err, "%s %s", tt.owner, tt.host)
		}
	}
	// The hosts of a credential bound those of the settings.
	require.NoError(t, c.CheckURL("https://hooks.example.com/", "key:team-1", []string{"hooks.example.com"}))
	require.Equal(t, webhook.ErrHost, c.CheckURL("https://a.example.org/", "key:team-1", []string{"hooks.example.com"}))
	require.Equal(t, webhook.ErrHost, c.CheckURL("https://evil.com/", "key:team-1", []string{"evil.com"}))
	require.Equal(t, webhook.ErrHost, c.CheckURL("https://hooks.example.com/", "key:team-1", []string{}))
}

func TestSettingsOfWebhooksAreChecked(t *testing.T) {
	t.Parallel()
	const one, two = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
	for _, tt := range []struct {
		c    webhook.Config
		says string
	}{
		{webhook.Config{}.WithDefaults(), ""},
		{webhook.Config{Secret: one, PreviousSecret: two, Ports: []int{1, 65535}}, ""},
		{webhook.Config{PreviousSecret: two}, "previous_secret: there is no webhooks.secret"},
		{webhook.Config{Secret: one, PreviousSecret: one}, "previous_secret: it is the same"},
		{webhook.Config{Secret: one, PreviousSecret: "hush"}, "previous_secret: the secret does not start with whsec_"},
		{webhook.Config{Ports: []int{80, 0}}, "ports[1]: the number is 0"},
		{webhook.Config{Hosts: []webhook.HostRule{{Allow: []string{}}}}, "hosts[0].owner: the owner is missing"},
		{webhook.Config{Hosts: []webhook.HostRule{{Owner: "key:a"}}}, "hosts[0].allow: the list is missing"},
		{webhook.Config{Hosts: []webhook.HostRule{{Owner: "key:a", Allow: []string{"example.com:443"}}}}, `hosts[0].allow[0]: "example.com:443" is not a host`},
		{webhook.Config{Hosts: []webhook.HostRule{{Owner: "key:a", Allow: []string{"https://example.com"}}}}, "is not a host"},
		{webhook.Config{Hosts: []webhook.HostRule{{Owner: "key:a", Allow: []string{"*"}}}}, ""},
		{webhook.Config{Hosts: []webhook.HostRule{{Owner: "team-*", Allow: []string{}}}}, `hosts[0].owner: "team-*" matches no owner`},
		{webhook.Config{Hosts: []webhook.HostRule{{Owner: "*-a", Allow: []string{}}, {Owner: "jwt:*:ann", Allow: []string{}}, {Owner: "anonymous", Allow: []string{}}}}, ""},
		{webhook.Config{Hosts: []webhook.HostRule{{Owner: "0123456789abcdef0123456789abcdef", Allow: []string{}}, {Owner: "01*", Allow: []string{}}}}, ""},
		{webhook.Config{Hosts: []webhook.HostRule{{Owner: "xyz*", Allow: []string{}}}}, "matches no owner"},
	} {
		var faults setting.Faults
		tt.c.Check(setting.NewChecker(&faults))
		if tt.says == "" {
			require.NoError(t, faults.Err())
			continue
		}
		require.ErrorContains(t, faults.Err(), tt.says)
		require.NotContains(t, fmt.Sprint(faults.Err()), "hush")
	}
}

func FuzzCheckURL(f *testing.F) {
	for host := range strings.FieldsSeq(privateHosts) {
		f.Add("http://" + host + "/")
	}
	f.Add("https://example.com:443/a?b#c")
	public := webhook.Config{}.WithDefaults()
	f.Fuzz(func(t *testing.T, raw string) {
		if err := public.CheckURL(raw, "me", nil); err != nil {
			require.False(t, errors.Is(err, webhook.ErrHost) && err.Error() != webhook.ErrHost.Error())
		}
	})
}

// A rule with a port would match nothing.
func TestHostsOfRulesHaveNoPort(t *testing.T) {
	t.Parallel()
	for host, good := range map[string]bool{
		"*": true, "a.example": true, "*.a_b.Example": true, "localhost": true, "192.0.2.1": true, "2001:db8::1": true, "[2001:DB8::1]": true,
		"localhost:21230": false, "127.0.0.1:80": false, "cafe:8080": false, "[::1]:80": false, ":": false, "1:2": false, "fe80::1%eth0": false,
		"https://a.example": false, "a.example/": false, "a.*.example": false, "": false, strings.Repeat("a", 256): false,
	} {
		var faults setting.Faults
		webhook.Config{Hosts: []webhook.HostRule{{Owner: "*", Allow: []string{host}}}}.Check(setting.NewChecker(&faults))
		if good {
			require.NoError(t, faults.Err(), host)
		} else {
			require.ErrorContains(t, faults.Err(), "hosts[0].allow[0]: ", host)
		}
	}
}
