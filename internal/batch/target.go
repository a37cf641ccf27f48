package batch

import (
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Target is a configured HTTP API.
type Target struct { //nolint:recvcheck // settings are values; the rules are asked for every action, without a copy
	// Name identifies the target: letters, digits, "-" and "_", at most 64.
	Name string `yaml:"name"`
	// BaseURL is the URL to which an action's path is appended: http or https, without
	// userinfo, query or fragment.
	BaseURL string `yaml:"base_url"`
	// Concurrency is the number of requests in flight, per worker process.
	// Defaults to 64.
	Concurrency int `yaml:"concurrency"`
	// Rate bounds the requests written by all workers together. Their send times are evenly spaced, up
	// to 0.5 % further apart than the rate requires. With any rate, all workers wait if the target asks
	// for it. The target asks with Retry-After on a 429, a 503 or any answer that is repeated, and on
	// every answer with RateLimit with nothing remaining ("default";r=0;t=30) or with
	// RateLimit-Remaining, X-RateLimit-Remaining or X-Rate-Limit-Remaining of 0 and the Reset of the
	// same name, in seconds from now or since 1970. The longest of several times counts. Retry.Max
	// bounds the wait. Defaults to no bound.
	Rate Rate `yaml:"rate"`
	// Burst is the number of requests that may be written at once after a pause. In any
	// window of the rate's length there are at most the number of the rate plus Burst -
	// 1 requests. Defaults to 1.
	Burst int `yaml:"burst"`
	// Timeout bounds one attempt, from dialling to the last byte of the answer, for an
	// action without a timeout of its own. Defaults to 30s.
	Timeout time.Duration `yaml:"timeout"`
	// IdempotencyKeyHeader names a header by which the target recognizes a repeated
	// request. Setting it makes every action safe to repeat, so set it only if the
	// target supports it. Defaults to none.
	IdempotencyKeyHeader string `yaml:"idempotency_key_header"`
	// MaxResponseBody is the number of bytes to keep of an answer's body. batchd cuts a
	// longer body and marks the result as truncated. A compressed body is measured
	// after decoding, or undecoded if it cannot be decoded. Defaults to 1 MiB.
	MaxResponseBody int64 `yaml:"max_response_body"`
	// Proxy is the URL of a forward proxy. batchd never uses a proxy from the
	// environment. Defaults to none.
	Proxy string `yaml:"proxy"`
	// Retry is the policy for repeated attempts.
	Retry Retry `yaml:"retry"`
	// Deny lists requests that batchd does not send: their actions end as errored, with
	// the code blocked. Defaults to none.
	Deny []Rule `yaml:"deny"`
	// Allow lists the only requests that batchd sends. Deny takes precedence. Defaults
	// to all.
	Allow []Rule `yaml:"allow"`
	// EncodedSlash selects what happens to a path with an encoded slash or backslash
	// (%2F, %5C, also encoded twice). EncodedSlashData sends it. EncodedSlashRefuse
	// does not, because a target that decodes it may see a path that no allow rule
	// matches. Defaults to refuse if there are allow rules, and to data otherwise.
	EncodedSlash string `yaml:"encoded_slash"`
	// Headers is the policy for the headers of actions.
	Headers HeaderPolicy `yaml:"headers"`
	// HTTPClient selects the HTTP/1.1 client: HTTPClientAuto or HTTPClientStandard. Both
	// send the same requests and refuse the same answers. Defaults to auto.
	HTTPClient string `yaml:"http_client"`
	// Connections selects the requests that one connection serves: ConnectionsPerOwner,
	// ConnectionsShared or ConnectionsNone. Defaults to per_owner.
	Connections string `yaml:"connections"`
	// AllowBody lists the methods among GET, HEAD, DELETE and OPTIONS whose requests may
	// have a body. Some servers ignore such a body and take it for another request on the
	// same connection. Defaults to none.
	AllowBody []string `yaml:"allow_body"`
	// BatchOrder selects how the batches of one owner share the owner's part of the target:
	// BatchOrderFair or BatchOrderFIFO. Owners always get equal parts. Defaults to fair.
	BatchOrder string `yaml:"batch_order"`
	// Transactions are the calls with which the target groups requests, so that either
	// all count or none. Defaults to none: then every member of a group except the last
	// needs an undo.
	Transactions *Transactions `yaml:"transactions"`
	// Verify is a request with which the API asks the target about the credential of a
	// submission in the mode passthrough, before it stores anything of the submission. The
	// credential is good if the target answers 2xx, and it is not if it answers 401 or 403.
	// Any other answer, and none, says nothing, and the submission is refused for now. The
	// request has the credential and nothing else of the submission. Defaults to none.
	Verify *Call `yaml:"verify"`
}

// The choices for a path with an encoded slash.
const (
	EncodedSlashData   = "data"   // the slash is part of a segment, and is sent unchanged
	EncodedSlashRefuse = "refuse" // the action ends as errored, with the code blocked
)

// Orders of the batches of one owner.
const (
	BatchOrderFair = "fair" // their actions take turns, so a small batch does not wait for a large one
	BatchOrderFIFO = "fifo" // the actions of one batch begin after those of the batch before it
)

// The HTTP clients for a target.
const (
	HTTPClientAuto     = "auto"     // batchd's own for http targets without a proxy, net/http's for all others
	HTTPClientStandard = "standard" // net/http's
)

// The requests that one connection to a target serves.
const (
	ConnectionsPerOwner = "per_owner" // those of one owner
	ConnectionsShared   = "shared"    // those of all owners
	ConnectionsNone     = "none"      // one request
)

// Transactions are a target's calls for a transaction of its own.
type Transactions struct {
	// Begin opens a transaction.
	Begin Call `yaml:"begin"`
	// ID is where the answer to Begin holds the transaction's id.
	ID Locator `yaml:"id"`
	// SendAs is how requests name their transaction.
	SendAs Sender `yaml:"send_as"`
	// Commit makes the transaction count, and Rollback takes it back. In their paths,
	// "{id}" is replaced by the transaction's id. Rollback must be safe to repeat.
	Commit   Call `yaml:"commit"`
	Rollback Call `yaml:"rollback"`
}

// Call is a request in a target's configuration.
type Call struct {
	Method string `yaml:"method"`
	Path   string `yaml:"path"`
}

// Locator is the place of a value in an answer. Exactly one field is set.
type Locator struct {
	// Pointer is a JSON pointer (RFC 6901) into the body.
	Pointer string `yaml:"pointer"`
	// Header is the name of a header.
	Header string `yaml:"header"`
}

// Sender is the place of a value in a request.
type Sender struct {
	// Header is the name of a header.
	Header string `yaml:"header"`
}

// Retry is a target's policy for repeated attempts.
type Retry struct {
	// Attempts is the most attempts for an action. Defaults to 5.
	Attempts int `yaml:"attempts"`
	// Base is the delay before the second attempt; it doubles for each further one and
	// is jittered. The attempt comes a few milliseconds after the end of the delay, and
	// never before. Defaults to 500ms.
	Base time.Duration `yaml:"base"`
	// Max bounds one delay, including one that the target asked for, and how long all
	// workers wait for the target at a time. Defaults to 1m.
	Max time.Duration `yaml:"max"`
	// Budget bounds the time from the first attempt to the start of the last.
	// Defaults to 10m.
	Budget time.Duration `yaml:"budget"`
	// Statuses are the statuses after which batchd repeats an action that is safe to
	// repeat. 429 and 503 repeat any action, because they mean that the target did
	// nothing. Defaults to 408, 425, 429, 502, 503 and 504.
	Statuses []int `yaml:"statuses"`
}

// WithDefaults returns the target with its zero values replaced.
func (t Target) WithDefaults() Target {
	setDefault(&t.Concurrency, 64)
	setDefault(&t.Burst, 1)
	setDefault(&t.Timeout, 30*time.Second)
	setDefault(&t.MaxResponseBody, 1<<20)
	setDefault(&t.Retry.Attempts, 5)
	setDefault(&t.Retry.Base, 500*time.Millisecond)
	setDefault(&t.Retry.Max, time.Minute)
	setDefault(&t.Retry.Budget, 10*time.Minute)
	if len(t.Allow) > 0 {
		setDefault(&t.EncodedSlash, EncodedSlashRefuse)
	}
	setDefault(&t.EncodedSlash, EncodedSlashData)
	setDefault(&t.HTTPClient, HTTPClientAuto)
	setDefault(&t.Connections, ConnectionsPerOwner)
	setDefault(&t.BatchOrder, BatchOrderFair)
	if t.Retry.Statuses == nil {
		t.Retry.Statuses = []int{408, 425, 429, 502, 503, 504}
	}
	return t
}

func setDefault[T comparable](value *T, def T) {
	var zero T
	if *value == zero {
		*value = def
	}
}

var targetName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$`)

// Validate returns every fault of a target whose defaults are filled in, with pointers
// relative to it ("/base_url").
func (t Target) Validate() []Fault {
	var faults []Fault
	add := func(pointer, format string, args ...any) {
		faults = append(faults, Fault{Index: -1, Pointer: pointer, Detail: fmt.Sprintf(format, args...)})
	}
	if !targetName.MatchString(t.Name) {
		add("/name", "the name %q is not usable: expected 1 to 64 letters, digits, - or _, starting with a letter or digit", clip(t.Name))
	}
	if _, err := ParseBaseURL(t.BaseURL); err != nil {
		add("/base_url", "%v", err)
	}
	if t.Concurrency < 1 || t.Concurrency > 10_000 {
		add("/concurrency", "the concurrency is %d: expected 1 to 10000", t.Concurrency)
	}
	switch {
	case t.Rate.N == 0 && t.Burst > 1:
		add("/burst", "the burst is %d, but there is no rate: add a rate such as 10/s, or leave the burst out", t.Burst)
	case t.Rate.N == 0 && t.Burst < 1:
		add("/burst", "the burst is %d: expected 1 or more, and a rate", t.Burst)
	case t.Rate.N > 0 && (t.Burst < 1 || t.Burst > t.Rate.N):
		add("/burst", "the burst is %d: expected 1 to the %d requests of the rate %s", t.Burst, t.Rate.N, t.Rate)
	}
	if t.Timeout <= 0 || t.Timeout > MaxTimeout {
		add("/timeout", "the timeout is %s: expected more than 0 and at most %s", t.Timeout, MaxTimeout)
	}
	if t.IdempotencyKeyHeader != "" {
		if err := validateHeader(Field{Name: t.IdempotencyKeyHeader}); err != nil {
			add("/idempotency_key_header", "%v", err)
		} else if isFraming(t.IdempotencyKeyHeader) {
			add("/idempotency_key_header", "the header %s belongs to the connection: name another", clip(t.IdempotencyKeyHeader))
		}
	}
	t.Headers.validate(add)
	if t.MaxResponseBody < 1 || t.MaxResponseBody > 256<<20 {
		add("/max_response_body", "the size is %d bytes: expected 1 byte to 256 MiB", t.MaxResponseBody)
	}
	if t.Proxy != "" {
		if u, err := url.Parse(t.Proxy); err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "socks5" {
			add("/proxy", "expected a URL such as http://proxy:3128")
		} else if err := CheckPort(u); err != nil {
			add("/proxy", "%v", err)
		}
	}
	for i := range t.Deny {
		t.Deny[i].validate(fmt.Sprintf("/deny/%d", i), add)
	}
	for i := range t.Allow {
		t.Allow[i].validate(fmt.Sprintf("/allow/%d", i), add)
	}
	if t.EncodedSlash != EncodedSlashData && t.EncodedSlash != EncodedSlashRefuse {
		add("/encoded_slash", "unknown value %q: expected data or refuse", clip(t.EncodedSlash))
	}
	if t.BatchOrder != BatchOrderFair && t.BatchOrder != BatchOrderFIFO {
		add("/batch_order", "unknown value %q: expected fair or fifo", clip(t.BatchOrder))
	}
	if t.HTTPClient != HTTPClientAuto && t.HTTPClient != HTTPClientStandard {
		add("/http_client", "unknown value %q: expected auto or standard", clip(t.HTTPClient))
	}
	switch t.Connections {
	case ConnectionsPerOwner, ConnectionsShared, ConnectionsNone:
	default:
		add("/connections", "unknown value %q: expected per_owner, shared or none", clip(t.Connections))
	}
	for i, method := range t.AllowBody {
		if !Bodiless(method) {
			add(fmt.Sprintf("/allow_body/%d", i), "unknown method %q: expected GET, HEAD, DELETE or OPTIONS; all others may have a body", clip(method))
		}
	}
	if t.Transactions != nil {
		t.Transactions.validate(add)
	}
	if t.Verify != nil {
		t.Verify.validateVerify(add)
	}
	r := &t.Retry
	if r.Attempts < 1 || r.Attempts > 100 {
		add("/retry/attempts", "there are %d attempts: expected 1 to 100", r.Attempts)
	}
	if r.Base < time.Millisecond || r.Base > r.Max {
		add("/retry/base", "the delay is %s: expected 1ms to retry.max (%s)", r.Base, r.Max)
	}
	if r.Max > 24*time.Hour {
		add("/retry/max", "the delay is %s: expected at most 24h", r.Max)
	}
	if r.Budget < 0 || r.Budget > 7*24*time.Hour {
		add("/retry/budget", "the budget is %s: expected at most 168h", r.Budget)
	}
	for i, s := range r.Statuses {
		if s < 400 || s > 599 {
			add(fmt.Sprintf("/retry/statuses/%d", i), "the status is %d: expected 400 to 599", s)
		}
	}
	return faults
}

// ParseBaseURL parses a target's base URL, and drops a trailing slash. Errors do not
// repeat the URL, because it may contain a password.
func ParseBaseURL(raw string) (*url.URL, error) {
	const expected = "expected a URL such as https://api.example.com/v1"
	if raw == "" {
		return nil, fmt.Errorf("the base URL is missing: %s", expected)
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return nil, fmt.Errorf("the base URL cannot be parsed: %s", expected)
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("the base URL's scheme is %q: expected http or https", clip(u.Scheme))
	case u.Host == "" || u.Hostname() == "":
		return nil, fmt.Errorf("the base URL has no host: %s", expected)
	case CheckPort(u) != nil:
		return nil, CheckPort(u)
	case u.User != nil:
		return nil, fmt.Errorf("the base URL holds a user name or password: send credentials in a header")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return nil, fmt.Errorf("the base URL holds a query or a fragment: %s", expected)
	}
	path := u.RawPath // the path as written, if net/url would escape it differently
	if path == "" {
		path = u.EscapedPath()
	}
	path = strings.TrimSuffix(EscapePath(path), "/")
	if path != "" {
		if err := ValidatePath(path); err != nil {
			return nil, fmt.Errorf("the base URL is not usable: %w", err)
		}
	}
	u.Path, u.RawPath = unescape(path), path
	return u, nil
}

// CheckPort refuses a URL whose port is not from 1 to 65535. Its error does
// not repeat the URL.
func CheckPort(u *url.URL) error {
	port := u.Port()
	if port == "" {
		return nil
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("the port of the URL is %s: expected 1 to 65535", clip(port))
	}
	return nil
}

func (x *Transactions) validate(add func(pointer, format string, args ...any)) {
	for _, c := range []struct {
		name   string
		call   Call
		needID bool
	}{{"begin", x.Begin, false}, {"commit", x.Commit, true}, {"rollback", x.Rollback, true}} {
		where := "/transactions/" + c.name
		if !knownMethod(c.call.Method) {
			add(where+"/method", "unknown method %q: expected one of %s", clip(c.call.Method), strings.Join(Methods, ", "))
		}
		if err := ValidatePath(strings.ReplaceAll(c.call.Path, "{id}", "id")); err != nil {
			add(where+"/path", "%v", err)
		}
		if !c.needID && strings.Contains(c.call.Path, "{id}") {
			add(where+"/path", "there is no transaction id before it began")
		}
	}
	if (x.ID.Pointer == "") == (x.ID.Header == "") {
		add("/transactions/id", "expected either a pointer into the body, such as /id, or a header")
	} else if x.ID.Pointer != "" && x.ID.Pointer[0] != '/' {
		add("/transactions/id/pointer", "the JSON pointer %q does not start with /", clip(x.ID.Pointer))
	}
	if err := validateHeader(Field{Name: x.SendAs.Header}); err != nil {
		add("/transactions/send_as/header", "%v", err)
	} else if isFraming(x.SendAs.Header) {
		// A dispatcher would leave it out, and the action would take effect outside of the transaction.
		add("/transactions/send_as/header", "the header %s belongs to the connection: name another", clip(x.SendAs.Header))
	}
}
