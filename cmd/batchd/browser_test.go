package main

import (
	"encoding/json"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/certs/certstest"
)

// browser makes requests as a browser does: with its cookies as far as SameSite allows, and with what it says about
// the page that caused a request.
type browser struct {
	t      *testing.T
	base   *url.URL // the server, without a path
	client *http.Client
	jar    http.CookieJar
	same   map[string]http.SameSite // by the name of the cookie
}

// newBrowser returns a browser for the server at a URL, which it calls localhost, so that another port of 127.0.0.1 is
// another site.
func newBrowser(t *testing.T, server string, ca *certstest.Authority) *browser {
	t.Helper()
	base, err := url.Parse(strings.Replace(server, "127.0.0.1", "localhost", 1))
	require.NoError(t, err)
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	transport := &http.Transport{TLSClientConfig: ca.Client()}
	t.Cleanup(transport.CloseIdleConnections)
	return &browser{
		t: t, base: base, jar: jar, same: make(map[string]http.SameSite),
		client: &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
	}
}

// reply is what a browser got, and from where.
type reply struct {
	status int
	body   string
	header http.Header
	from   *url.URL
}

// relation is the value of Sec-Fetch-Site for a request that a page caused, and that went through these URLs.
func relation(page *url.URL, through []*url.URL) string {
	found := "same-origin"
	for _, u := range through {
		switch {
		case u.Scheme != page.Scheme || u.Hostname() != page.Hostname():
			return "cross-site"
		case u.Host != page.Host:
			found = "same-site"
		}
	}
	return found
}

// send sends a request that a page caused, after redirects through other URLs.
func (b *browser) send(r *http.Request, page *url.URL, through []*url.URL) reply {
	b.t.Helper()
	site, navigates := relation(page, append(through, r.URL)), r.Header.Get("Sec-Fetch-Mode") == "navigate"
	r.Header.Set("Sec-Fetch-Site", site)
	for _, cookie := range b.jar.Cookies(r.URL) {
		if site != "cross-site" || navigates && r.Method == http.MethodGet && b.same[cookie.Name] == http.SameSiteLaxMode {
			r.AddCookie(cookie)
		}
	}
	res, err := b.client.Do(r)
	require.NoError(b.t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(b.t, err)
	for _, cookie := range res.Cookies() {
		b.same[cookie.Name] = cookie.SameSite
	}
	b.jar.SetCookies(r.URL, res.Cookies())
	return reply{res.StatusCode, string(body), res.Header, r.URL}
}

func (b *browser) at(path string) *url.URL {
	b.t.Helper()
	u, err := b.base.Parse(path)
	require.NoError(b.t, err)
	return u
}

// refresh matches a page that sends the browser on.
var refresh = regexp.MustCompile(`http-equiv="refresh" content="0; url=([^"]*)"`)

// open follows a link on a page of the server, redirects, and pages that send the browser on.
func (b *browser) open(path string) reply {
	b.t.Helper()
	page, next := b.base, b.at(path)
	var through []*url.URL
	for range 10 {
		r, err := http.NewRequestWithContext(b.t.Context(), http.MethodGet, next.String(), http.NoBody)
		require.NoError(b.t, err)
		r.Header.Set("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8")
		r.Header.Set("Sec-Fetch-Mode", "navigate")
		r.Header.Set("Sec-Fetch-Dest", "document")
		got := b.send(r, page, through)
		if location := got.header.Get("Location"); location != "" {
			through = append(through, next)
			next, err = next.Parse(location)
			require.NoError(b.t, err)
			continue
		}
		onward := refresh.FindStringSubmatch(got.body)
		if onward == nil || !strings.HasPrefix(got.header.Get("Content-Type"), "text/html") {
			return got
		}
		page, through = next, nil
		next, err = next.Parse(html.UnescapeString(onward[1]))
		require.NoError(b.t, err)
	}
	require.Fail(b.t, "the browser is sent from page to page")
	return reply{}
}

// fetch makes a request by a script on a page of an origin, or of the server if there is none.
func (b *browser) fetch(method, path, body, origin string) reply {
	b.t.Helper()
	page := b.base
	if origin != "" {
		var err error
		page, err = url.Parse(origin)
		require.NoError(b.t, err)
	}
	r, err := http.NewRequestWithContext(b.t.Context(), method, b.at(path).String(), strings.NewReader(body))
	require.NoError(b.t, err)
	if method != http.MethodGet {
		r.Header.Set("Origin", page.Scheme+"://"+page.Host)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	r.Header.Set("Accept", "*/*")
	r.Header.Set("Sec-Fetch-Mode", "cors")
	r.Header.Set("Sec-Fetch-Dest", "empty")
	return b.send(r, page, nil)
}

// document decodes the body of an answer with a status.
func (b *browser) document(got reply, status int, into any) {
	b.t.Helper()
	require.Equal(b.t, status, got.status, "%s: %s", got.from, got.body)
	require.NoError(b.t, json.Unmarshal([]byte(got.body), into), "%s", got.body)
}
