package client

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// answerTimeout is the longest time between the end of a request and the start of its
// answer. It is longer than a server lets a call wait.
const answerTimeout = 2 * time.Minute

// defaultRetryFor is how long a client repeats a call while the server is unavailable.
const defaultRetryFor = time.Minute

// Client calls one batchd server. It is safe for concurrent use.
type Client struct {
	base     *url.URL
	http     *http.Client
	header   http.Header
	retryFor time.Duration
	// secure is the configuration of TLS, or nil.
	secure *tls.Config
}

// Option configures a [Client].
type Option func(*Client) error

// WithHTTPClient makes requests with hc, for instance to trust a private certificate
// authority. A timeout of hc bounds every call, including waits and streams. By default
// the client uses an HTTP client of its own without such a timeout. It uses the proxy
// from the environment, and considers a server unavailable that does not begin to
// answer within two minutes.
func WithHTTPClient(hc *http.Client) Option {
	return func(c *Client) error {
		if hc == nil {
			return errors.New("the HTTP client is nil")
		}
		c.http = hc
		return nil
	}
}

// WithTLS makes connections with a configuration of TLS, for instance to trust a private certificate authority, or
// to show a certificate to the server. It cannot be combined with [WithHTTPClient].
func WithTLS(cfg *tls.Config) Option {
	return func(c *Client) error {
		if cfg == nil {
			return errors.New("the configuration of TLS is nil")
		}
		c.secure = cfg.Clone()
		return nil
	}
}

// WithHeader sends a header with every request. Several values for one name can be
// given in several calls.
func WithHeader(name, value string) Option {
	return func(c *Client) error {
		if !validHeader(name, value) {
			// Do not repeat the value: it may be a secret.
			return fmt.Errorf("the header %q is not usable: a name holds letters, digits and -, a value no control characters", name)
		}
		c.header.Add(name, value)
		return nil
	}
}

// WithBearer sends "Authorization: Bearer token" with every request.
func WithBearer(token string) Option {
	return func(c *Client) error {
		if token == "" || !validHeader("Authorization", token) {
			return errors.New("the bearer token is empty or holds control characters")
		}
		c.header.Set("Authorization", "Bearer "+token)
		return nil
	}
}

// WithRetryFor sets how long the client repeats a call while the server cannot be
// reached or asks to come back later, if the call may be repeated. Zero repeats
// nothing. Defaults to a minute.
func WithRetryFor(d time.Duration) Option {
	return func(c *Client) error {
		if d < 0 {
			return fmt.Errorf("the time to retry for is %s: expected 0 or more", d)
		}
		c.retryFor = d
		return nil
	}
}

// New returns a client of the server at baseURL, such as http://127.0.0.1:8080. The
// client keeps a path in the URL, for a server behind a proxy. New makes no request.
func New(baseURL string, opts ...Option) (*Client, error) {
	base, err := parseBaseURL(baseURL)
	if err != nil {
		return nil, err
	}
	c := &Client{base: base, header: make(http.Header), retryFor: defaultRetryFor}
	for _, opt := range opts {
		if err := opt(c); err != nil {
			return nil, err
		}
	}
	switch transport := newTransport(); {
	case c.http == nil:
		transport.TLSClientConfig = c.secure
		c.http = &http.Client{Transport: transport}
	case c.secure != nil:
		return nil, errors.New("WithTLS and WithHTTPClient are both given: set TLS in the HTTP client")
	}
	// A redirect could carry credentials to another host and turn a POST into a GET.
	hc := *c.http
	hc.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	c.http = &hc
	return c, nil
}

func newTransport() *http.Transport {
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: answerTimeout,
		IdleConnTimeout:       90 * time.Second,
		MaxIdleConnsPerHost:   16,
		ForceAttemptHTTP2:     true,
	}
}

// parseBaseURL does not repeat the URL in errors, because it may contain a password.
func parseBaseURL(raw string) (*url.URL, error) {
	const expected = "expected a URL such as http://127.0.0.1:8080"
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return nil, fmt.Errorf("the server's URL cannot be parsed: %s", expected)
	case u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		return nil, fmt.Errorf("the server's URL is not usable: %s", expected)
	case u.Port() != "" && !validPort(u.Port()):
		return nil, fmt.Errorf("the port of the server's URL is %s: expected 1 to 65535", clip(u.Port()))
	case u.User != nil:
		return nil, errors.New("the server's URL holds a user name or password: send credentials in a header")
	case u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("the server's URL holds a query or a fragment: %s", expected)
	}
	return u, nil
}

func validPort(port string) bool {
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0
}

func validHeader(name, value string) bool {
	if name == "" {
		return false
	}
	for _, r := range name {
		if r <= ' ' || r >= 0x7f || strings.ContainsRune(`()<>@,;:\"/[]?={}`, r) {
			return false
		}
	}
	return !strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f })
}

// call is one request to the server.
type call struct {
	method string
	// path is the path below root, in unescaped segments. Root is below the base URL, and
	// defaults to "batch".
	path   []string
	root   string
	query  url.Values
	header http.Header
	body   io.Reader
}

// do makes the call. The answer's status is below 300, and the caller closes its body.
func (c *Client) do(ctx context.Context, call call) (*http.Response, error) {
	u := c.base.JoinPath(append([]string{cmp.Or(call.root, "batch")}, escapeAll(call.path)...)...)
	u.RawQuery = call.query.Encode()
	req, err := http.NewRequestWithContext(ctx, call.method, u.String(), call.body)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	maps.Copy(req.Header, c.header)
	maps.Copy(req.Header, call.header)
	if req.Header.Get("Accept") == "" {
		req.Header.Set("Accept", "application/json, application/problem+json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err // *url.Error has the method and the URL, without a password
	}
	if resp.StatusCode >= http.StatusMultipleChoices {
		defer resp.Body.Close()
		return nil, readProblem(resp)
	}
	return resp, nil
}

func escapeAll(segments []string) []string {
	escaped := make([]string, len(segments))
	for i, s := range segments {
		escaped[i] = url.PathEscape(s)
	}
	return escaped
}

// checkID refuses ids that would change the path of the request.
func checkID(id string) error {
	if id == "" || id == "." || id == ".." {
		return fmt.Errorf("%q is not the id of a batch", id)
	}
	return nil
}

// decode makes the call and decodes the JSON document in the answer.
func decode[T any](ctx context.Context, c *Client, call call) (*T, error) {
	resp, err := c.do(ctx, call)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	doc := new(T)
	if err := json.NewDecoder(resp.Body).Decode(doc); err != nil {
		return nil, fmt.Errorf("read the answer to %s %s: %w", call.method, resp.Request.URL.Redacted(), err)
	}
	if batch, ok := any(doc).(*Batch); ok {
		batch.Store = Store(resp.Header.Get("Batchd-Store"))
	}
	return doc, nil
}

// preferWait returns the header with which a call waits for the end of a batch (RFC 7240
// §4.3).
func preferWait(wait time.Duration) http.Header {
	seconds := int64((wait + time.Second - 1) / time.Second)
	if seconds <= 0 {
		return nil
	}
	return http.Header{"Prefer": {"wait=" + strconv.FormatInt(seconds, 10)}}
}
