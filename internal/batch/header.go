package batch

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// HeaderPolicy says which headers a target accepts from actions.
type HeaderPolicy struct {
	// Allow lists headers that actions may have although batchd refuses them by default.
	// Those are the headers with which proxies report the client or its identity
	// (X-Forwarded-For, X-Real-IP, Remote-User, Via, …), those that replace the method,
	// path or host of a request (X-HTTP-Method-Override, X-Original-URL, …), and names
	// that some servers take for one of them, such as X_Forwarded_For. Headers that frame
	// a request or belong to its connection cannot be listed. Defaults to none.
	Allow []string `yaml:"allow"`
}

// headerClass is the reason why a header is refused.
type headerClass uint8

const (
	plainHeader    headerClass = iota
	framingHeader              // belongs to the connection or frames the request
	trustedHeader              // set by proxies, and trusted by what is behind them
	overrideHeader             // replaces the method, path or host of the request
)

// leftOut lists the framing headers that a dispatcher leaves out, because clients copy
// them from requests of their own. All other framing headers are refused.
var leftOut = []string{
	"connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization",
	"te", "trailer", "transfer-encoding", "host", "content-length", "expect",
}

// headerClasses has the headers that are refused, in the form of [foldHeader].
var headerClasses = func() map[string]headerClass {
	classes := make(map[string]headerClass)
	for class, names := range map[headerClass]string{
		framingHeader: strings.Join(leftOut, " ") + " upgrade http2-settings",
		trustedHeader: `forwarded via proxy client-ip true-client-ip x-true-client-ip x-client-ip x-clientip x-cluster-client-ip
			fastly-client-ip fastly-ssl fastly-ff x-originating-ip x-origin-ip x-source-ip x-proxyuser-ip x-peer-ip x-host-ip x-backend-ip
			wl-proxy-client-ip wl-proxy-client-cert proxy-client-ip x-coming-from coming-from x-forward x-forward-for x-forwarder-for forward-for
			client-cert client-cert-chain x-credential-identifier x-anonymous-consumer x-userinfo x-id-token-claims
			cf-ipcountry cf-visitor cf-ew-via cf-pseudo-ipv4 cf-worker cdn-loop akamai-origin-hop x-akamai-edgescape
			front-end-https x-front-end-https x-url-scheme x-scheme x-forwarded-protocol x-nginx-proxy x-proxy-user
			sm-user sm-userdn x-via xrealip auth-user logon-user x-scope-orgid kubeflow-userid kubeflow-groups sm-universalid sm-serversessionid x-sendfile-type gap-auth early-data
			x-azure-clientip x-azure-socketip x-azure-fdid x-azure-ref x-logged-in-user x-user-dn x-subject-dn`,
		overrideHeader: `x-http-method-override x-http-method x-method-override x-method x-http-override http-method-override
			method-override x-http-verb x-http-verb-override x-verb-override x-override-method x-override-url x-url-override x-path-override
			x-host x-host-override x-http-host-override x-http-destinationurl x-http-path-override x-proxy-url x-proxy-host x-real-host
			x-request-uri request-uri request-method path-info path-translated x-rewrite-uri x-forwarded-uri x-http-url-override x-backend-host base-url`,
	} {
		for name := range strings.FieldsSeq(names) {
			classes[name] = class
		}
	}
	return classes
}()

// headerPrefixes has the beginnings of names that are refused, by the first letter.
var headerPrefixes = func() (prefixes [128][]headerPrefix) {
	for class, names := range map[headerClass]string{
		trustedHeader: `x-forwarded- x-real- x-remote- remote- x-auth-request- x-authenticated- x-webauth- x-authentik- x-goog-authenticated-user-
			x-goog-iap- x-amzn-oidc- x-amzn-mtls- x-ms-client-principal- x-ms-token-aad- cf-connecting- cf-access-authenticated- cf-access-jwt-
			x-client-cert- x-clientcert- x-client-dn- x-client-verify- x-client-subject- x-client-ssl- x-ssl- ssl- x-tls- tls- x-arr- x-appengine-
			cloudfront-viewer- x-envoy- x-consumer- x-pomerium- x-vouch- tailscale-user- oidc- shib- mellon- iv- x-iv- x-accel- x-middleware-
			x-spiffe- impersonate- x-auth-user- x-ms-token- x-hasura- x-http-forwarded- x-http-client- x-sso- x-saml-`,
		overrideHeader: `x-original- x-rewrite-`,
	} {
		for name := range strings.FieldsSeq(names) {
			prefixes[name[0]] = append(prefixes[name[0]], headerPrefix{name, class})
		}
	}
	return prefixes
}()

type headerPrefix struct {
	text  string // with a "-" at its end
	class headerClass
}

// foldHeader returns a name as a lenient server may read it: CGI and its successors, and
// some proxies, do not distinguish "-" from "_" and other marks. It appends to buf, and
// returns nil if a byte cannot be in a name.
func foldHeader(buf []byte, name string) []byte {
	mark := false
	for i := range len(name) {
		c := name[i]
		switch {
		case c >= 'A' && c <= 'Z':
			c += 'a' - 'A'
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
		case isTokenByte(c):
			mark = true
			continue
		default:
			return nil
		}
		if mark && len(buf) > 0 {
			buf = append(buf, '-')
		}
		mark = false
		buf = append(buf, c)
	}
	return buf
}

// classOf returns the class of a folded name. Some servers put "HTTP_" in front of the
// names of all headers, and some programs look for the result in a header.
func classOf(folded []byte) headerClass {
	for {
		const longest = 64 // no name in the table is as long
		if len(folded) < longest {
			if class := headerClasses[string(folded)]; class != plainHeader {
				return class
			}
		}
		if len(folded) > 0 {
			for _, p := range headerPrefixes[folded[0]&127] {
				if len(folded) >= len(p.text)-1 && string(folded[:min(len(folded), len(p.text))]) == p.text[:min(len(folded), len(p.text))] {
					return p.class
				}
			}
		}
		rest := len("http-")
		if len(folded) < rest || string(folded[:rest]) != "http-" {
			return classOfWords(folded)
		}
		folded = folded[rest:]
	}
}

// ForbidsHeader returns the reason why a target's policy refuses a header of an action,
// or "". A nil target has no setting of its own.
func (t *Target) ForbidsHeader(h Field) string {
	var room [64]byte
	folded := foldHeader(room[:0], h.Name)
	if len(folded) == 0 {
		return "" // not a name, or one that resembles none
	}
	class := classOf(folded)
	if class == framingHeader {
		return refusedFraming(h, folded)
	}
	if t == nil {
		t = &Target{}
	}
	if own := t.resembles(h.Name, folded); own != "" {
		switch {
		case !equalFold(own, h.Name):
		case t.Transactions == nil || !equalFold(t.Transactions.SendAs.Header, own) || t.Headers.allows(own):
			return ""
		default:
			return "batchd names the transaction of a request in the header " + clip(h.Name) + ": leave it out, or list it in headers.allow of the target"
		}
		return "some servers take the header " + clip(h.Name) + " for " + own + ": leave it out"
	}
	if class == plainHeader {
		return ""
	}
	if t.Headers.allows(h.Name) {
		return ""
	}
	why := "targets trust the header %s to come from a proxy"
	if class == overrideHeader {
		why = "some servers let the header %s replace the method, path or host of a request"
	}
	return fmt.Sprintf(why+": leave it out, or list it in headers.allow of the target", clip(h.Name))
}

// allows reports whether the policy allows a header by name.
func (p *HeaderPolicy) allows(name string) bool {
	return slices.ContainsFunc(p.Allow, func(allowed string) bool { return equalFold(allowed, name) })
}

// resembles returns the header that the target's configuration names and for which a
// server may take this one, or "".
func (t *Target) resembles(name string, folded []byte) string {
	own := [2]string{t.IdempotencyKeyHeader}
	if t.Transactions != nil {
		own[1] = t.Transactions.SendAs.Header
	}
	found := ""
	for _, candidate := range own {
		if candidate == "" {
			continue
		}
		var room [64]byte
		switch {
		case equalFold(candidate, name):
			return candidate
		case string(foldHeader(room[:0], candidate)) == string(folded):
			found = candidate
		}
	}
	return found
}

// refusedFraming returns why a header that resembles a framing header is refused, or ""
// if a dispatcher leaves it out.
func refusedFraming(h Field, folded []byte) string {
	// Only the name itself is left out: Http-Host is another header to the dispatchers.
	plain := equalFold(string(folded), h.Name) && headerClasses[string(folded)] == framingHeader
	switch {
	case !plain:
		return fmt.Sprintf("some servers take the header %s for %s, which belongs to the connection: leave it out", clip(h.Name), clip(string(bytes.TrimPrefix(folded, []byte("http-")))))
	case string(folded) == "connection":
		if option := unknownConnectionOption(h.Value); option != "" {
			return fmt.Sprintf("the header Connection names %s, which would not be sent: expected close or keep-alive, or leave it out", clip(option))
		}
		return ""
	case string(folded) == "upgrade", string(folded) == "http2-settings":
		return fmt.Sprintf("the header %s belongs to the connection, whose protocol is not an action's to change: leave it out", clip(h.Name))
	}
	return ""
}

// unknownConnectionOption returns an option of a Connection header that names another
// header, or "".
func unknownConnectionOption(value string) string {
	for option := range strings.SplitSeq(value, ",") {
		switch option = strings.Trim(option, " \t"); strings.ToLower(option) {
		case "", "close", "keep-alive", "te":
		default:
			return option
		}
	}
	return ""
}

// ForbidsHeaders returns the reason why a target's policy refuses a header of an action,
// without its undo, or "".
func (t *Target) ForbidsHeaders(a *Action) string {
	for _, h := range a.Headers {
		if why := t.ForbidsHeader(h); why != "" {
			return why
		}
	}
	return ""
}

// Refusals returns the faults for which the server refuses an action at submission,
// because of the settings of its target. The pointers are relative to the action. The
// same target refuses the same actions before it sends them; see [Forbids]. The settings
// that count are those that [SameRefusals] compares.
func (t *Target) Refusals(a *Action) []Fault {
	var faults []Fault
	for pointer := ""; a != nil; a, pointer = a.Undo, pointer+"/undo" {
		if why := t.ForbidsBody(a); why != "" {
			faults = append(faults, Fault{Pointer: pointer + "/body", Detail: "the target refuses the body: " + why})
		}
		if len(a.Headers) > MaxHeaderCount {
			continue // a fault of its own
		}
		last := ""
		for _, h := range a.Headers {
			if why := t.ForbidsHeader(h); why != "" && h.Name != last {
				faults = append(faults, Fault{Pointer: pointer + "/headers/" + EscapePointer(clip(h.Name)), Detail: why})
				last = h.Name
			}
		}
	}
	return faults
}

// SameRefusals reports whether two targets have the same [Target.Refusals].
func SameRefusals(a, b *Target) bool { return a.refusals() == b.refusals() }

// refusals describes the settings that matter to [Target.Refusals].
func (t *Target) refusals() string {
	sendAs := ""
	if t.Transactions != nil {
		sendAs = t.Transactions.SendAs.Header
	}
	return strings.ToLower(fmt.Sprintf("%q %q %q %q", t.Headers.Allow, t.IdempotencyKeyHeader, sendAs, t.AllowBody))
}

// validate adds the faults of a policy, at /headers.
func (p *HeaderPolicy) validate(add func(pointer, format string, args ...any)) {
	for i, name := range p.Allow {
		pointer := fmt.Sprintf("/headers/allow/%d", i)
		switch err := validateHeader(Field{Name: name}); {
		case err != nil:
			add(pointer, "%v", err)
		case strings.Contains(name, "*"):
			add(pointer, "the header %q has a *: list each header by its name", clip(name))
		case isFraming(name):
			add(pointer, "the header %s belongs to the connection, or some servers take it for one that does: it cannot be allowed", clip(name))
		}
	}
}

// isFraming reports whether a header belongs to the connection, or could be taken for one
// that does.
func isFraming(name string) bool {
	var room [64]byte
	return classOf(foldHeader(room[:0], name)) == framingHeader
}
