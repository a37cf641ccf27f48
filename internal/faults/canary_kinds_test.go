package faults

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/batchd/batchd/client"
)

// object is JSON.
type object = map[string]any

// submission is a native batch. Its target is before its actions.
type submission struct {
	Target    string   `json:"target"`
	ExpiresIn string   `json:"expires_in,omitempty"`
	Webhook   object   `json:"webhook,omitempty"`
	Actions   []object `json:"actions"`
}

// ways are how the target answers; see serveTarget.
var ways = []string{
	"says", "fails", "refuses", "unauthorized", "busy", "moved", "drops", "garbage", "line", "header", "length", "coding", "chunk", "short", "more", "gzip", "says",
}

// action returns an action with the canary in its path, query, headers and body.
func (a *aviary) action(way, method string) object {
	action := object{
		"method": method, "path": "/" + way + "/" + a.core, "query": object{"token": a.credential("query"), "x": []string{a.core}},
		"headers": object{
			"Authorization": "Bearer " + a.credential("action"), "Cookie": "session=" + a.core, "X-Api-Key": a.core,
			"X-Basic": "Basic " + base64.StdEncoding.EncodeToString([]byte("u:"+a.core)),
		},
	}
	if method != http.MethodGet && method != http.MethodHead {
		action["body"] = object{"password": a.credential("body"), a.core: strings.Repeat(a.core, 50)}
	}
	return action
}

// submission returns a batch to a target with actions to which it answers in several ways.
func (a *aviary) submission(n int, target string) submission {
	var actions []object
	for i, method := range []string{"POST", "GET", "DELETE", "PUT"} {
		actions = append(actions, a.action(ways[(n+i)%len(ways)], method))
	}
	hook := []string{"ok", "broken", "moved", "garbage"}[n%4]
	return submission{
		Target: target, Actions: actions,
		Webhook: object{"url": a.hook + "/" + hook + "/" + a.core + "?token=" + url.QueryEscape(a.credential("webhook")), "secret": "whsec_" + a.core + strings.Repeat("C", 27) + "="},
	}
}

func encoded(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // the values are maps and texts
	}
	return text
}

// ends is the time in which every batch ends whose target can be reached.
const ends = time.Minute

// authorization returns the headers of a client that passes its credential on.
func (a *aviary) authorization() []string {
	return []string{"Authorization", "Bearer " + a.credential("authorization")}
}

// submit submits a batch and returns its id, or "" after a fault.
func (a *aviary) submit(body any, headers ...string) string {
	status, header, answer := a.call(http.MethodPost, "/batch", encoded(body), headers...)
	if status != http.StatusAccepted {
		a.t.Errorf("%d %s", status, answer)
		return ""
	}
	return strings.TrimPrefix(header.Get("Location"), "/batch/")
}

// await waits for the end of a batch, and keeps the errors in its results. It reports one that does not
// end, unless it waits for a short time.
func (a *aviary) await(within time.Duration, id string, headers ...string) {
	if id == "" {
		return
	}
	for deadline := time.Now().Add(within); ; {
		_, _, answer := a.call(http.MethodGet, "/batch/"+id, nil, append(headers, "Prefer", "wait=5")...)
		var doc struct {
			Status  client.Status `json:"status"`
			Results []struct {
				Error json.RawMessage `json:"error"`
			} `json:"results"`
		}
		if err := json.Unmarshal(answer, &doc); err != nil {
			a.t.Errorf("%s: %v", answer, err)
			return
		}
		if doc.Status.Terminal() {
			for _, r := range doc.Results {
				a.keep("errors", r.Error)
			}
			return
		}
		if time.Now().After(deadline) {
			if within >= ends {
				a.t.Errorf("batch %s does not end: %s", id, answer)
			}
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// deliveryLog keeps the log of a webhook's deliveries.
func (a *aviary) deliveryLog(url string, headers ...string) {
	_, _, answer := a.call(http.MethodGet, url, nil, headers...)
	a.keep("delivery logs", answer)
}

// whole submits a batch, waits for its end, and makes every request about it.
func (a *aviary) whole(body any, headers ...string) string {
	id := a.submit(body, headers...)
	a.await(ends, id, headers...)
	for _, path := range []string{"", "/results", "/results?outcome=failed", "/events", "/results?cursor=" + a.core} {
		a.call(http.MethodGet, "/batch/"+id+path, nil, headers...)
	}
	a.deliveryLog("/batch/"+id+"/webhook", headers...)
	a.call(http.MethodPost, "/batch/"+id+"/webhook/redeliver", nil, headers...)
	a.call(http.MethodPost, "/batch/"+id+"/cancel", nil, headers...)
	a.call(http.MethodGet, "/batch", nil, headers...)
	// Someone else with a secret of their own.
	a.call(http.MethodGet, "/batch/"+id, nil, "Authorization", "Bearer other "+a.core)
	_, _, answer := a.call(http.MethodGet, "/webhook-secret?batch="+id, nil, headers...)
	var own struct {
		Secret string `json:"secret"`
	}
	_ = json.Unmarshal(answer, &own) // checked by its length
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(own.Secret) > 40 && len(a.allowed) < 3 {
		a.allowed = append(a.allowed, own.Secret)
	}
	return id
}

// kinds are the kinds of batches.
func (a *aviary) kinds() map[string]func(n int) {
	return map[string]func(n int){
		"native":   func(n int) { a.whole(a.submission(n, "api"), a.authorization()...) },
		"standard": func(n int) { a.whole(a.submission(n, "standard"), a.authorization()...) },
		"nowhere": func(n int) {
			for _, target := range []string{"nowhere", "clear", "proxied", "tunnel"} {
				s := a.submission(n, target)
				s.ExpiresIn = "2s"
				// While a target is paused, an action of a worker that was killed may stay with it for long.
				a.await(5*time.Second, a.submit(s, a.authorization()...), a.authorization()...)
			}
		},
		"key": func(n int) {
			a.whole(a.submission(n, "api"), append(a.authorization(), "X-Batchd-Key", a.key)...)
			a.whole(a.submission(n, "api"), "Authorization", "Bearer "+a.key)
		},
		"ndjson": a.lines,
		"asana":  func(n int) { a.dialects(n, "/asana") }, "requests": func(n int) { a.dialects(n, "/requests") },
		"syncano":  func(n int) { a.dialects(n, "/v1.1/instances/i/batch") },
		"primaerp": func(n int) { a.dialects(n, "/primaerp") },
		"groups":   a.groups,
		"invalid":  func(int) { a.invalid() },
		"cancelled": func(n int) {
			s := a.submission(n, "api")
			s.Actions = []object{a.action("holds", "POST"), a.action("holds", "GET")}
			id := a.submit(s, a.authorization()...)
			a.call(http.MethodPost, "/batch/"+id+"/cancel", nil, a.authorization()...)
			a.await(ends, id, a.authorization()...)
		},
		"expired": func(n int) {
			s := a.submission(n, "api")
			s.ExpiresIn, s.Actions = "1s", []object{a.action("busy", "POST"), a.action("holds", "GET"), a.action("fails", "GET")}
			a.await(ends, a.submit(s, a.authorization()...), a.authorization()...)
		},
		"deleted": func(n int) {
			id := a.whole(a.submission(n, "api"), a.authorization()...)
			a.call(http.MethodDelete, "/batch/"+id, nil, a.authorization()...)
			a.call(http.MethodGet, "/batch/"+id, nil, a.authorization()...)
		},
		"retried": func(n int) {
			id := a.whole(a.submission(n, "api"), a.authorization()...)
			a.call(http.MethodPost, "/batch/"+id+"/retry", nil, a.authorization()...)
			a.await(ends, id, a.authorization()...)
		},
		"repeated": func(n int) {
			headers := append(a.authorization(), "Idempotency-Key", fmt.Sprintf("%s-%d", a.core, n))
			a.submit(a.submission(n, "api"), headers...)
			a.submit(a.submission(n, "api"), headers...)
			a.call(http.MethodPost, "/batch", encoded(a.submission(n+1, "api")), headers...) // another content
		},
		"broken off": a.brokenOff,
	}
}

// lines submits NDJSON, compressed, with its options in the query.
func (a *aviary) lines(n int) {
	var body bytes.Buffer
	w := gzip.NewWriter(&body)
	for i := range 4 {
		_, _ = w.Write(append(encoded(a.action(ways[(n+i)%len(ways)], "PATCH")), '\n')) // a buffer accepts every write
	}
	_ = w.Close()
	query := url.Values{"target": {"api"}, "webhook": {a.hook + "/ok?key=" + a.core}}
	headers := append(a.authorization(), "Content-Type", "application/x-ndjson", "Content-Encoding", "gzip")
	_, header, _ := a.call(http.MethodPost, "/batch?"+query.Encode(), body.Bytes(), headers...)
	a.await(ends, strings.TrimPrefix(header.Get("Location"), "/batch/"), a.authorization()...)
	query.Set("unknown", a.core)
	a.call(http.MethodPost, "/batch?"+query.Encode(), body.Bytes(), headers...)
	a.call(http.MethodPost, "/batch?target=api", body.Bytes()[:body.Len()/2], headers...)
}

// dialects submits a batch in a dialect, and some that are refused.
func (a *aviary) dialects(n int, path string) {
	way := func(i int) string { return ways[(n+i)%len(ways)] }
	var body any
	query, headers := "", a.authorization()
	switch path {
	case "/asana":
		body = object{"data": object{"actions": []object{
			{"method": "post", "relative_path": "/" + way(0) + "/" + a.core, "data": object{"password": a.credential("body")}},
			{"method": "get", "relative_path": "/" + way(1), "data": object{"token": a.credential("query")}},
		}}}
	case "/requests":
		body = object{"requests": []object{
			{"method": "POST", "path": "/" + way(0) + "?token=" + a.core, "body": object{"password": a.core}, "headers": object{"X-Api-Key": a.core}},
			{"method": "GET", "path": "/" + way(1) + "/" + a.core},
		}}
	case "/primaerp":
		query, headers = "?token="+url.QueryEscape(a.credential("token")), nil
		body = object{"batch": []object{
			{"method": "POST", "path": "/" + way(0) + "/" + a.core, "body": a.core, "headers": "X-Secret: " + a.core + "\r\nContent-Type: text/plain"},
			{"method": "GET", "path": "/" + way(1)},
		}}
	default:
		headers = []string{"X-Api-Key", a.credential("x-api-key"), "X-User-Key", a.core}
		requests := []object{
			{"method": "POST", "path": "/v1.1/instances/i/" + way(0), "body": object{"password": a.core}},
			{"method": "GET", "path": "/v1.1/instances/i/" + a.core},
		}
		body = object{"requests": requests}
		if n%2 == 0 {
			body, headers = object{"requests": requests, "_api_key": a.core, "_user_key": a.core + "-user"}, nil
		}
	}
	a.call(http.MethodPost, path+query, encoded(body), headers...)
	a.call(http.MethodPost, path+query, encoded(body), append(headers, "X-Batchd-Key", a.key)...)
	text := string(encoded(body))
	for _, wrong := range []string{text[:len(text)-3], strings.Replace(text, `"method"`, `"methods"`, 1), strings.ReplaceAll(text, `"/`, `"//`), "x" + a.core, `"` + a.core + `"`} {
		a.call(http.MethodPost, path+query, []byte(wrong), headers...)
	}
	a.call(http.MethodPut, path+query, []byte(text), headers...)
	a.call(http.MethodPost, path+query, []byte(text), append(headers, "Content-Type", "text/xml")...)
}

// groups submits transactions, and groups with undos.
func (a *aviary) groups(n int) {
	for _, target := range []string{"tx", "api"} {
		var actions []object
		for i, way := range []string{"says", "says", ways[n%len(ways)]} {
			action := a.action(way, "PUT")
			action["group"] = "g"
			if target == "api" && i < 2 {
				action["undo"] = a.action("says", "DELETE")
			}
			actions = append(actions, action)
		}
		a.whole(submission{Target: target, Actions: actions}, a.authorization()...)
	}
}

// brokenOff sends a part of a submission, and hangs up.
func (a *aviary) brokenOff(n int) {
	conn, err := net.Dial("tcp", a.apiAddr)
	if err != nil {
		a.t.Errorf("dial: %v", err)
		return
	}
	defer conn.Close()
	body := encoded(a.submission(n, "api"))
	fmt.Fprintf(conn, "POST /batch HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", a.apiAddr, a.core, len(body), body[:len(body)/2])
}

// invalid sends what is refused, with the canary at the places that are wrong.
func (a *aviary) invalid() {
	core := a.core
	var bodies []string
	for _, action := range []string{
		`{"method":"GET","path":"` + core + `"}`, `{"method":"GET","path":"//` + core + `"}`, `{"method":"GET","path":"/../` + core + `"}`, `{"method":"GET","path":"/..;session=` + core + `/"}`,
		`{"method":"GET","path":"https://u:` + core + `@example.com/"}`, `{"method":"GET","path":"/?a=%zz` + core + `"}`, `{"method":"GET","path":"/#` + core + `"}`,
		`{"method":"GET","path":"/ ` + core + `"}`, `{"method":"GET","path":"/","headers":"` + core + `"}`, `{"method":"GET","path":"/","headers":{"X":"a\r\nX: ` + core + `"}}`,
		`{"method":"GET","path":"/","headers":{"Authorization":"Bearer ` + core + `\u0000"}}`, `{"method":"GET","path":"/","headers":{"Authorization":["` + core + `",7]}}`,
		`{"method":"GET","path":"/","headers":{"Authorization":{"Bearer":"` + core + `"}}}`, `{"method":"GET","path":"/","headers":{"X-Forwarded-For":"` + core + `"}}`,
		`{"method":"GET","path":"/","headers":{"Authorization":"Negotiate ` + core + `"}}`,
		`{"method":"POST","path":"/","body_base64":"` + core + `!"}`, `{"method":"POST","path":"/","body_text":{"a":"` + core + `"}}`, `{"method":"POST","path":"/","body":{"a":"` + core + `","a":"` + core + `"}}`,
		`{"method":"POST","path":"/","body":"` + core + `\ud800"}`, `{"method":"POST","path":"/","body":` + core + `}`, "{\"method\":\"POST\",\"path\":\"/\",\"body\":\"" + core + "\xff\"}",
		`{"method":"GET","path":"/","query":"` + core + `"}`, `{"method":"GET","path":"/","query":{"a":{"b":"` + core + `"}}}`,
		`{"method":"GET","path":"/","body":"` + core + `"}`, `{"method":"GET","path":"/","password":"` + core + `"}`,
		`{"method":"POST","path":"/","headers":{"X":"` + a.key + `"}}`, `{"method":"POST","path":"/` + a.key + `"}`, `{"method":"POST","path":"/","body":"` + a.key + `"}`,
	} {
		bodies = append(bodies, `{"target":"api","actions":[`+action+`]}`, action)
	}
	for _, hook := range []string{
		"http://u:" + core + "@example.com/", "http://" + core, "ftp://example.com/" + core, core, "http://example.com:" + core + "/", "http://[" + core + "]/", "https://example.com/%zz" + core, "http://" + core + ".internal/",
	} {
		bodies = append(bodies, `{"target":"api","webhook":{"url":"`+hook+`"},"actions":[{"method":"GET","path":"/"}]}`)
		a.call(http.MethodPost, "/batch?target=api&webhook="+url.QueryEscape(hook), []byte(`{"method":"GET","path":"/"}`), append(a.authorization(), "Content-Type", "application/x-ndjson")...)
	}
	for _, secret := range []string{core, "whsec_" + core, "whsec_" + core + "!"} {
		bodies = append(bodies, `{"target":"api","webhook":{"url":"`+a.hook+`","secret":"`+secret+`"},"actions":[{"method":"GET","path":"/"}]}`)
	}
	bodies = append(bodies, core, `"`+core+`"`, `{"`+core, `{"target":"api","actions":["`+core+`"]}`, `{"target":"api","webhook":"`+core+`"}`, `{"password":"`+core+`"}`)
	for _, body := range bodies {
		a.call(http.MethodPost, "/batch", []byte(body), a.authorization()...)
	}
	good := `{"target":"api","actions":[{"method":"GET","path":"/"}]}`
	for _, headers := range [][]string{
		{"Authorization", core + "\xff"},
		{"Authorization", "Bearer " + a.key + "0"},
		{"Authorization", "Bearer " + a.key[:50]},
		{"X-Batchd-Key", core},
		{"X-Batchd-Key", a.key[:55] + "x"},
		{"Authorization", "Bearer " + core, "Content-Type", "text/plain"},
		{"Authorization", "Bearer " + core, "Content-Encoding", "x"},
		{"Authorization", "Bearer " + core, "Idempotency-Key", core + " é"},
		{"Authorization", "Bearer " + a.key, "Cookie", core, "X-Request-Id", a.key},
		{"Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte(a.key+":"))},
		{"Authorization", "Bearer " + core, "Prefer", "wait=" + core},
		{},
	} {
		a.call(http.MethodPost, "/batch", []byte(good), headers...)
		a.call(http.MethodGet, "/batch?limit=0&token="+core, nil, headers...)
		a.call(http.MethodGet, "/batch?cursor="+core, nil, headers...)
		a.call(http.MethodGet, "/batch?token="+core, nil, headers...)
	}
	a.call(http.MethodGet, "/batch/"+a.key, nil, a.authorization()...)
	a.call(http.MethodGet, "/"+a.key+"/x", nil)
	a.call(http.MethodGet, "/batch?key="+a.key, nil, a.authorization()...)
	a.raw("GET http://u:" + core + "@" + a.apiAddr + "/batch HTTP/1.1\r\nHost: " + a.apiAddr + "\r\n\r\n")
	a.raw("GET /batch HTTP/1.1\r\nHost: u:" + core + "@" + a.apiAddr + "\r\n\r\n")
	a.raw("GET /batch HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer " + core + "\x00\r\n\r\n")
	a.raw("GET /batch HTTP/1.1\r\nHost: h\r\nAuthorization Bearer: " + core + "\r\n\r\n")
	a.raw("GET /batch?t=" + core + "\x00 HTTP/1.1\r\nHost: h\r\n\r\n")
	a.raw(core + "\r\n\r\n")
}

// raw sends bytes to the API, and keeps the answer as an error.
func (a *aviary) raw(text string) {
	conn, err := net.Dial("tcp", a.apiAddr)
	if err != nil {
		a.t.Errorf("dial: %v", err)
		return
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, text)
	if half, ok := conn.(*net.TCPConn); ok {
		_ = half.CloseWrite()
	}
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	answer, _ := io.ReadAll(conn)
	a.keep("errors", answer)
}

// badCommands runs commands whose settings and arguments are wrong at the places of secrets.
func (a *aviary) badCommands() {
	core := a.core
	padded := core + strings.Repeat("B", 26) + "A="
	target := "targets: [{name: x, base_url: http://127.0.0.1:1}]\n"
	for _, text := range []string{
		"webhooks: {secret: \"" + core, "webhooks: {secret: {" + padded + ": 1}}\n" + target, "webhooks: {secret: [" + core + "]}\n" + target, "webhooks: {secret: " + core + "}\n" + target,
		"webhooks: {secret: whsec_" + core + "}\n" + target, "webhooks: " + core + "\n" + target, "webhooks:\n  secret: \"" + core + "\\q\"\n" + target, "webhooks:\n\tsecret: " + core + "\n" + target,
		"webhooks: {secret: &" + core + " x}\n" + target, "webhooks: {secret: !!binary " + core + "}\n" + target, "webhooks: {secret: " + core + "\xff}\n" + target, "webhooks: {secret: *" + core + "}\n" + target,
		"seal: {keys: [" + padded + "]}\n" + target, "seal: {keys: [{id: " + padded + ", base64: x}]}\n" + target, "seal: {keys: [{id: one, base64: " + core + "}]}\n" + target, "seal: {keys: {" + padded + ": one}}\n" + target,
		"seal: {keys: one:" + padded + "}\n" + target, "seal: " + core + "\n" + target,
		"redis: {url: " + core + "}\n" + target, "redis: {url: 'redis://:" + core + "@'}\n" + target, "redis: {url: 'redis://:" + core + "@h:x/0'}\n" + target, "redis: {url: 'http://:" + core + "@h/0'}\n" + target,
		"redis: {url: 'redis://h/?password=" + core + "'}\n" + target, "redis: {url: 'redis://:" + core + "@h', password: " + core + "}\n" + target, "redis: {password: [" + core + "]}\n" + target, "redis: {password: {a: " + core + "}}\n" + target,
		"targets: [{name: x, base_url: 'http://u:" + core + "@h'}]\n", "targets: [{name: x, base_url: 'http://h/?key=" + core + "'}]\n", "targets: [{name: x, base_url: 'u:" + core + "@h'}]\n", "targets: [{name: x, base_url: 'http://u:" + core + "@h:x'}]\n",
		"targets: [{name: x, base_url: http://h, proxy: 'ftp://u:" + core + "@h'}]\n", "targets: [{name: x, base_url: http://h, proxy: 'http://u:" + core + "@h:99999'}]\n", "targets: [{name: x, base_url: http://h, proxy: '" + core + "'}]\n",
		"targets: [{name: x, base_url: http://h, proxy: 'http://u:%zz" + core + "@h'}]\n", "targets: [{name: x, base_url: http://h, proxy: 'http://u:" + core + "@h'}]\n",
	} {
		file := a.dir + "/bad.yaml"
		if err := writeFile(file, text); err != nil {
			a.t.Errorf("write: %v", err)
			return
		}
		a.command(nil, binary, "config", "check", file)
	}
	good := a.settingsFile("command")
	a.command(nil, binary, "config", "check", good)
	for _, env := range []string{
		"BATCHD_WEBHOOKS_SECRET=" + core, "BATCHD_WEBHOOK_SECRET=" + core, "BATCHD_WEBHOOKS_SECRET_FILE=" + core, "BATCHD_SEAL_KEYS=" + padded, "BATCHD_SEAL_KEYS=:" + core, "BATCHD_SEAL_KEYS=" + padded + ":" + core,
		"BATCHD_SEAL_KEYS_FILE=" + core, "BATCHD_SEAL_FILE=" + core, "BATCHD_REDIS_PASSWORD=" + core, "BATCHD_REDIS_PASSWORD_FILE=" + core, "BATCHD_REDIS_URL=" + core, "BATCHD_REDIS_URL=redis://u:" + core + "@:x", "BATCHD_REDIS_HOST=" + core,
		"BATCHD_REDIS_URL_FILE=redis://u:" + core + "@h", "BATCHD_SECRET=" + core, "BATCHD_PORT=" + core, "BATCHD_TOKENS=" + core, "BATCHD_API_KEYS=" + core, "BATCHD_AUTH_KEYS=" + core,
	} {
		a.command([]string{env}, binary, "config", "check", good)
		if long {
			a.command([]string{env}, binary, "worker", "--worker-listen", "x", "--config", good)
		}
	}
	down := "--server=http://127.0.0.1:1"
	for _, env := range []string{"BATCHD_TOKEN=" + core, "BATCHD_TOKEN=" + core + "\n", "BATCHD_TOKEN_FILE=" + core, "BATCHD_TOKEN=" + a.key} {
		a.command([]string{env}, binary, "status", "x", down)
		a.command([]string{env}, binary, "list", "--server=http://"+a.apiAddr)
	}
	a.command([]string{"BATCHD_SERVER=http://u:" + core + "@127.0.0.1:1/?key=" + core}, binary, "list")
	for _, args := range [][]string{
		{"status", "x", "--server=http://u:" + core + "@127.0.0.1:1"},
		{"status", "x", "--server=u:" + core + "@h"},
		{"status", "x", down, "--header", "Authorization: Bearer " + core},
		{"status", "x", down, "--header", "Authorization Bearer " + core},
		{"status", "x", down, "--header", "Authorization: Bearer " + core + "\n"},
		{"worker", "--redis-url=redis://u:" + core + "@h:x"},
		{"worker", "--redis-url=" + core},
		{"worker", "--redis-password=" + core},
		{"worker", "--webhooks-secret", core},
		{"keys", "list", "--config", good},
		{"keys", "revoke", a.key, "--config", good},
		{"keys", "rotate", a.key, "--config", good},
		{"keys", "create", a.key, "--config", good},
		{"keys", "create", "x", "--owner", a.key, "--config", good},
		{"status", a.key, "--server=http://" + a.apiAddr},
		{"seal", "rotate", "--config", good},
	} {
		a.command(nil, binary, args...)
	}
}
