package batch

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// refusedHeaders lists names that a target without a policy of its own refuses.
const refusedHeaders = `
	X-Forwarded X-Forwarded-For X-Forwarded-Host X-Forwarded-Proto X-Forwarded-Port X-Forwarded-Prefix X-Forwarded-Server X-Forwarded-By
	X-Forwarded-Ssl X-Forwarded-Scheme X-Forwarded-User X-Forwarded-Email X-Forwarded-Groups X-Forwarded-Preferred-Username
	X-Forwarded-Access-Token X-Forwarded-Client-Cert X-Forwarded-Uri X-Forwarded-Method X-Forwarded-Anything
	x-forwarded-for X-FORWARDED-FOR x_forwarded_for X_Forwarded_For X-Forwarded_For X.Forwarded.For X-Forwarded.For X~Forwarded~For X!Forwarded-For
	X--Forwarded--For X-_Forwarded_-For -X-Forwarded-For X-Forwarded-For_ _X_Forwarded_For X|Forwarded|For HTTP_X_FORWARDED_FOR HTTP-X-Forwarded-For
	HTTP_HTTP_X_Real_IP Forwarded FORWARDED Forwarded_ _forwarded X-Real-IP X-Real-Ip X_Real_IP X-Real-Port X-Real-Host
	X-Remote-User X_Remote_User X-Remote-Addr X-Remote-IP X-Remote-Group X-Remote-Groups X-Remote-Extra-Scopes Remote-User Remote_User REMOTE_USER
	Remote-Groups Remote-Email Remote-Name Remote-Addr X-Auth-Request-User X-Auth-Request-Email X-Auth-Request-Access-Token X_Auth_Request_User
	X-Authenticated-User X-Authenticated-Userid X-WEBAUTH-USER X-authentik-username X-Goog-Authenticated-User-Email X-Goog-Iap-Jwt-Assertion
	X-Amzn-Oidc-Identity X-Amzn-Oidc-Data X-Amzn-Mtls-Clientcert-Subject X-MS-CLIENT-PRINCIPAL X-MS-CLIENT-PRINCIPAL-ID X-Ms-Token-Aad-Id-Token
	CF-Connecting-IP CF_Connecting_IP Cf-Connecting-Ipv6 CF-IPCountry CF-Visitor Cf-Access-Authenticated-User-Email Cf-Access-Jwt-Assertion CDN-Loop
	True-Client-IP True_Client_IP X-True-Client-IP X-Client-IP X_Client_IP Client-IP Client_Ip X-Cluster-Client-IP X-Originating-IP Fastly-Client-IP
	WL-Proxy-Client-IP Proxy-Client-IP X-ProxyUser-Ip X-Forward-For Forward-For X-Azure-ClientIP X-Appengine-User-Ip CloudFront-Viewer-Address
	Client-Cert Client-Cert-Chain X-Client-Cert X-Client-Cert-Dn X_Client_Cert X-Client-Verify X-Client-Dn X-Client-Subject-Dn SSL-Client-Cert
	SSL_CLIENT_CERT SSL_CLIENT_S_DN SSL-Client-Verify X-SSL-Cert X-SSL-Client-Cert X-SSL-Client-Verify X-SSL-Client-S-DN X-ARR-ClientCert X-TLS-Client-Subject
	X-Envoy-External-Address X-Envoy-Original-Path X-Envoy-Internal X-Consumer-ID X-Consumer-Username X-Credential-Identifier X-Userinfo
	X-Pomerium-Jwt-Assertion X-Vouch-User Tailscale-User-Login OIDC_CLAIM_sub OIDC-Claim-Email Shib-Identity-Provider SM_USER iv-user iv-groups
	X-Middleware-Subrequest X-Accel-Mapping X-Sendfile-Type Via VIA via_ Proxy PROXY _Proxy Front-End-Https X-URL-Scheme Early-Data
	X-HTTP-Method-Override X_HTTP_Method_Override x-http-method-override X-HTTP-Method X-HTTP_Method X-Method-Override X_Method_Override X-Method
	HTTP_X_HTTP_METHOD_OVERRIDE X-Original-URL X_Original_URL X-Original-URI X-Original-Host X-Original-Method X-Original-Path X-Original-Forwarded-For
	X-Rewrite-URL X_Rewrite_Url X-Rewrite-Uri X-Host X_Host X-Host-Override X-HTTP-Host-Override X-Override-URL X-HTTP-DestinationURL Request-URI
	Content_Length content_length Content.Length Content--Length Content-Length_ Transfer_Encoding transfer_encoding Transfer.Encoding TRANSFER_ENCODING
	HTTP_CONTENT_LENGTH Host_ _Host Connection_ Keep_Alive Proxy_Connection Proxy_Authorization Te_ Trailer_ _Expect
	Fly-Client-IP DO-Connecting-IP X-Vercel-Forwarded-For X-Nf-Client-Connection-Ip X-Apigateway-Api-Userinfo X-Endpoint-API-UserInfo l5d-dst-override
	L5d-Client-Id X-Script-Name Script_Name Forwarded-For Forwarded-Host Forwarded-Proto X-Custom-IP-Authorization Ali-CDN-Real-IP Cdn-Src-Ip Incap-Client-IP
	X-Sucuri-ClientIP CloudFront-Forwarded-Proto Http-X-Forwarded-For REDIRECT_REMOTE_USER X-Webobjects-Remote-User Oam-Remote-User X-JWT-Assertion Fastly-Temp-XFF
	Teleport-Jwt-Assertion Authenticated-User Impersonate-User Impersonate-Group X-Akamai-Client-IP X-User-IP Original-URL Acme-Rewrite-Path X-Acme-Override-Host
	Acme_Forwarded_For X-Acme-Source-Address HTTP_ACME_CLIENT_IP Acme-Method-Override
	Upgrade upgrade UPGRADE _Upgrade HTTP2-Settings http2_settings HTTP2_Settings HTTP2.Settings`

// acceptedHeaders lists names that look a little like them.
const acceptedHeaders = `
	Authorization Content-Type Accept Accept-Encoding Cookie User-Agent If-Match Range Prefer Origin Referer X-Api-Key X-User-Key X-Trace X-Request-Id
	Idempotency-Key X-Idempotency-Key X-Account X-Forward X-Forwardable X-Realm X-Remotely Remotely Viatec Proxying X-Hosted X-Hostname X-Originality
	X-Methods Traceparent X-Amz-Date X-Amz-Security-Token CF-Access-Client-Id CF-Access-Client-Secret X-Goog-User-Project X-Ms-Version X-Ms-Date
	X-Idempotency-Override X-Api-Version Api-Version X-Correlation-Id X-Session-Id X-Device-Id X-Client-Version X-Client-Id X-Client-Name X-User-Agent
	X-Organization-Id X-Tenant-Id X-Workspace X-Locale Accept-Language Accept-Charset Cache-Control Pragma If-None-Match If-Modified-Since If-Unmodified-Since If-Range
	Content-Language Content-Disposition Content-Location Content-Range Link Location Slug Date Priority Tracestate Baggage X-B3-TraceId X-B3-SpanId X-B3-Sampled B3
	X-Cloud-Trace-Context X-Amzn-Trace-Id X-Datadog-Trace-Id Sentry-Trace X-GitHub-Api-Version Stripe-Version Stripe-Account X-Shopify-Access-Token X-Auth-Token
	X-Access-Token X-Api-Secret X-Signature X-Hub-Signature X-Timestamp X-Nonce X-Amz-Content-Sha256 X-Amz-Target X-Ms-Client-Request-Id X-Goog-Api-Client
	X-Upload-Content-Type X-Upload-Length Upload-Offset Tus-Resumable X-Total-Count X-Page X-Per-Page X-Debug X-Feature-Flag X-Priority-Override X-Retry-Override
	X-Email X-Phone-Number X-Shipping-Address X-Billing-Address X-Address X-User-Name X-Group-Id X-File-Name X-File-Path X-Callback-Url X-Webhook-Url Destination Depth
	X-Method-Id X-Path X-Source X-Source-Id X-Origin-Country X-Assertion Dpop OData-Version OData-MaxVersion SOAPAction MIME-Version X-Powered-By
	X-CSRF-Token X-Requested-With DNT Content-Encoding Content_Type Content-Md5 Digest X-User-Id X-Tenant My_Header Http-Referer Sslx Tlsx X-Sslx
	Host Content-Length Transfer-Encoding TE Trailer Expect Keep-Alive Proxy-Connection Proxy-Authorization Proxy-Authenticate connection _ ~~`

func TestHeadersThatTargetsTrustAreRefused(t *testing.T) {
	t.Parallel()
	accepted := strings.Fields(strings.Replace(acceptedHeaders, "X-Forward ", "", 1)) // X-Forward itself is refused
	require.Greater(t, len(strings.Fields(refusedHeaders))+len(accepted), 230)
	for _, target := range []*Target{nil, {}, {IdempotencyKeyHeader: "Idempotency-Key"}} {
		for name := range strings.FieldsSeq(refusedHeaders) {
			require.NotEmpty(t, target.ForbidsHeader(Field{Name: name, Value: "1"}), name)
		}
		for _, name := range accepted {
			value := "1"
			if strings.EqualFold(name, "connection") {
				value = " Keep-Alive ,close"
			}
			require.Empty(t, target.ForbidsHeader(Field{Name: name, Value: value}), name)
		}
	}
}

func TestAnAllowedHeaderIsAllowedUnderItsNameAlone(t *testing.T) {
	t.Parallel()
	target := &Target{Headers: HeaderPolicy{Allow: []string{"X-Forwarded-For", "x_remote_user"}}}
	for name, allowed := range map[string]bool{
		"X-Forwarded-For": true, "x-forwarded-for": true, "X_Remote_User": true, "X_Forwarded_For": false, "X-Remote-User": false, "X-Forwarded-Host": false,
	} {
		why := target.ForbidsHeader(Field{Name: name})
		require.Equal(t, allowed, why == "", "%s: %s", name, why)
		if !allowed {
			require.Contains(t, why, name)
			require.Contains(t, why, "headers.allow")
		}
	}
	// Validation refuses such a policy, and it would have no effect.
	target.Headers.Allow = []string{"Upgrade", "Content_Length", "Connection"}
	for _, h := range []Field{{Name: "Upgrade"}, {Name: "Content_Length"}, {Name: "Connection", Value: "X-A"}} {
		require.NotEmpty(t, target.ForbidsHeader(h), h.Name)
	}
}

// A server that does not distinguish the names would take the client's for batchd's own.
func TestHeadersThatResembleThoseOfTheConfigurationAreRefused(t *testing.T) {
	t.Parallel()
	target := &Target{IdempotencyKeyHeader: "X-Real-Key", Transactions: &Transactions{SendAs: Sender{Header: "X_Tx"}}}
	for name, allowed := range map[string]bool{"X-Real-Key": true, "x-real-KEY": true, "X_Real_Key": false, "X_Tx": false, "x_tx": false, "X-Tx": false, "x.tx": false, "X-Tx2": true} {
		require.Equal(t, allowed, target.ForbidsHeader(Field{Name: name}) == "", name)
	}
	require.Contains(t, target.ForbidsHeader(Field{Name: "x_tx"}), "batchd names the transaction of a request in the header x_tx")
	target.Headers.Allow = []string{"X_TX"}
	require.Empty(t, target.ForbidsHeader(Field{Name: "x_tx"}))
	require.NotEmpty(t, target.ForbidsHeader(Field{Name: "x-tx"}), "it resembles the header")
}

// A header that Connection names would be left out on the way: a transaction's, for
// instance.
func TestAConnectionHeaderNamesNoOther(t *testing.T) {
	t.Parallel()
	for value, allowed := range map[string]bool{
		"": true, "close": true, "Keep-Alive": true, "keep-alive,, close\t": true, "TE": true, "X-Tx": false, "close, Authorization": false, "upgrade": false,
		"Upgrade, HTTP2-Settings": false, "close;x": false,
	} {
		require.Equal(t, allowed, (*Target)(nil).ForbidsHeader(Field{Name: "connection", Value: value}) == "", value)
	}
}

func TestRefusalsHaveTheirPlaces(t *testing.T) {
	t.Parallel()
	a := &Action{
		Headers: []Field{{Name: "X-A"}, {Name: "X-Real-Ip", Value: "1"}, {Name: "X-Real-Ip", Value: "2"}, {Name: "x~host"}},
		Undo:    &Action{Headers: []Field{{Name: "Via"}}},
	}
	var pointers []string
	for _, f := range (&Target{}).Refusals(a) {
		pointers = append(pointers, f.Pointer)
	}
	require.Equal(t, []string{"/headers/X-Real-Ip", "/headers/x~0host", "/undo/headers/Via"}, pointers)
	require.NotEmpty(t, Forbids(&Target{}, a))
	require.True(t, SameRefusals(&Target{Name: "a"}, &Target{Name: "b"}))
	require.False(t, SameRefusals(&Target{}, &Target{Headers: HeaderPolicy{Allow: []string{"Via"}}}))
}

func FuzzForbidsHeader(f *testing.F) {
	for name := range strings.FieldsSeq(refusedHeaders + acceptedHeaders) {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		folded := strings.Map(func(r rune) rune {
			switch {
			case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
				return r
			case r >= 'A' && r <= 'Z':
				return r + 'a' - 'A'
			}
			return '-'
		}, name)
		if validateHeader(Field{Name: name}) != nil || strings.EqualFold(folded, name) {
			return
		}
		// A server that reads the name in this way must not find a header that is refused,
		// or that belongs to the connection.
		if (*Target)(nil).ForbidsHeader(Field{Name: folded}) != "" || isFraming(folded) {
			require.NotEmpty(t, (*Target)(nil).ForbidsHeader(Field{Name: name}))
		}
	})
}
