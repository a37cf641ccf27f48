package dispatch

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

const chunkedHead = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

// forbiddenAnswers are those whose end is in doubt, or that are no HTTP/1.1.
var forbiddenAnswers = map[string]string{
	"a length beside chunks":         "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
	"chunks beside a length":         "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
	"a length beside chunks, folded": "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding:\r\n chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
	"a length of 0 beside chunks":    "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"both, and no body":              "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
	"a blank before the colon":       "HTTP/1.1 200 OK\r\nTransfer-Encoding : chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
	"a tab before the colon":         "HTTP/1.1 200 OK\r\nContent-Length\t: 2\r\n\r\nhi",
	"a blank in another name":        "HTTP/1.1 200 OK\r\nX A: 1\r\nContent-Length: 2\r\n\r\nhi",
	"no name":                        "HTTP/1.1 200 OK\r\n: 1\r\nContent-Length: 2\r\n\r\nhi",
	"no colon":                       "HTTP/1.1 200 OK\r\nContent-Length 2\r\n\r\nhi",
	"a folded first header":          "HTTP/1.1 200 OK\r\n Content-Length: 2\r\n\r\nhi",
	"HTTP/1.0 with chunks":           "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
	"HTTP/1.0 with chunks kept":      "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\nhi",
	"HTTP/2.0":                       "HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
	"HTTP/2":                         "HTTP/2 200 OK\r\nContent-Length: 2\r\n\r\nhi",
	"HTTP/0.9":                       "HTTP/0.9 200 OK\r\nContent-Length: 2\r\n\r\nhi",
	"HTTP/1.10":                      "HTTP/1.10 200 OK\r\nContent-Length: 2\r\n\r\nhi",
	"HTTP/1.":                        "HTTP/1. 200 OK\r\nContent-Length: 2\r\n\r\nhi",
	"lower case":                     "http/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
	"another protocol":               "RTSP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
	"an empty line first":            "\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
	"no status":                      "HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi",
	"a short status":                 "HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nhi",
	"a long status":                  "HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nhi",
	"a signed status":                "HTTP/1.1 +20 OK\r\nContent-Length: 2\r\n\r\nhi",
	"a negative status":              "HTTP/1.1 -20 OK\r\nContent-Length: 2\r\n\r\nhi",
	"a status of letters":            "HTTP/1.1 2OO OK\r\nContent-Length: 2\r\n\r\nhi",
	"a bare CR in the status line":   "HTTP/1.1 200 O\rK\r\nContent-Length: 2\r\n\r\nhi",
	"a NUL in the status line":       "HTTP/1.1 200 O\x00K\r\nContent-Length: 2\r\n\r\nhi",
	"a bare CR in a value":           "HTTP/1.1 200 OK\r\nX-A: a\rContent-Length: 9\r\nContent-Length: 2\r\n\r\nhi",
	"a NUL in a value":               "HTTP/1.1 200 OK\r\nX-A: a\x00b\r\nContent-Length: 2\r\n\r\nhi",
	"two lengths":                    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi!",
	"a list of two lengths":          "HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\nhi!",
	"an empty length":                "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nhi",
	"a signed length":                "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nhi",
	"a negative length":              "HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nhi",
	"a hexadecimal length":           "HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\nhi",
	"a length of two numbers":        "HTTP/1.1 200 OK\r\nContent-Length: 1 2\r\n\r\nhi",
	"a folded length":                "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n 2\r\n\r\nhi",
	"a length out of range":          "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551618\r\n\r\nhi",
	"two lengths of HEAD's kind":     "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n",
	"an unknown coding":              "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nhi",
	"a coding behind chunks":         "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
	"a coding before chunks":         "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
	"chunks twice":                   "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
	"an empty coding":                "HTTP/1.1 200 OK\r\nTransfer-Encoding:\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
	"a coding beside white space":    "HTTP/1.1 200 OK\r\nTransfer-Encoding: \x0bchunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
	"a body behind an early hint":    "HTTP/1.1 103 Early Hints\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
	"a status below all":             "HTTP/1.1 099 Odd\r\nContent-Length: 2\r\n\r\nhi",
	"another protocol from here on":  "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
}

// forbiddenBodies are those that break the rules behind a head that does not.
var forbiddenBodies = map[string]string{
	"no size":                   "\r\nhi\r\n0\r\n\r\n",
	"a signed size":             "+2\r\nhi\r\n0\r\n\r\n",
	"a negative size":           "-2\r\nhi\r\n0\r\n\r\n",
	"a prefix":                  "0x2\r\nhi\r\n0\r\n\r\n",
	"a blank before the size":   " 2\r\nhi\r\n0\r\n\r\n",
	"a blank in the size":       "0 2\r\nhi\r\n0\r\n\r\n",
	"an underscore in the size": "0_2\r\nhi\r\n0\r\n\r\n",
	"a size out of range":       "ffffffffffffffff2\r\nhi\r\n0\r\n\r\n",
	"a size that wraps":         "10000000000000002\r\nhi\r\n0\r\n\r\n",
	"a size below zero as int":  "fffffffffffffffe\r\nhi\r\n0\r\n\r\n",
	"LF behind the size":        "2\nhi\r\n0\r\n\r\n",
	"CR in an extension":        "2;a\rb\r\nhi\r\n0\r\n\r\n",
	"data behind the chunk":     "2\r\nhi!\r\n0\r\n\r\n",
	"no line end":               "2\r\nhi0\r\n\r\n",
	"LF behind the chunk":       "2\r\nhi\n0\r\n\r\n",
	"a trailer without a colon": "2\r\nhi\r\n0\r\nX-A\r\n\r\n",
	"LF behind the last chunk":  "2\r\nhi\r\n0\r\n\n",
	"LF behind a trailer":       "2\r\nhi\r\n0\r\nX-A: b\n\r\n",
	"LF behind the trailers":    "2\r\nhi\r\n0\r\nX-A: b\r\n\n",
	"only LF behind the chunks": "2\r\nhi\r\n0\r\nX-A: b\n\n",
	"CR behind a trailer":       "2\r\nhi\r\n0\r\nX-A: b\r\r\n\r\n",
	"a long extension":          "2;" + strings.Repeat("a", 8<<10) + "\r\nhi\r\n0\r\n\r\n",
}

func TestAnAnswerWhoseFramingIsForbiddenIsRefused(t *testing.T) {
	t.Parallel()
	everyWay(t, func(t *testing.T, reach func(t *testing.T, script func(w *wire)) (*rawTarget, *Dispatcher)) {
		t.Helper()
		for name, answer := range forbiddenAnswers {
			for _, late := range []bool{false, true} { // on a connection that was used before, too
				target, d := reach(t, func(w *wire) {
					for n := 1; w.request() != nil; n++ {
						if late && n == 1 && w.number == 1 {
							w.say(ok("", "hello"))
						} else {
							w.say(answer)
						}
					}
				})
				if late {
					require.Equal(t, 200, do(t, d, batch.Action{}).Result.Status)
				}
				seen := target.requests.Load()
				resp := do(t, d, batch.Action{Method: "POST", Body: []byte("x"), Timeout: 10 * time.Second})
				require.NotNil(t, resp.Result.Error, name)
				require.Equal(t, batch.CodeProtocol, resp.Result.Error.Code, "%s: %s", name, resp.Result.Error.Message)
				require.Equal(t, batch.Unknown, resp.Result.Outcome, name)
				require.Equal(t, seen+1, target.requests.Load(), name)

				conns := target.conns.Load()
				resp = do(t, d, batch.Action{Method: "GET", Timeout: 10 * time.Second})
				require.NotNil(t, resp.Result.Error, name)
				require.Equal(t, batch.Errored, resp.Result.Outcome, name)
				require.True(t, resp.Repeat, name)
				require.Equal(t, seen+2, target.requests.Load(), "%s: one attempt is one request", name)
				require.Equal(t, conns+1, target.conns.Load(), "%s: the connection was closed", name)
				d.Close()
			}
		}
	})
}

func TestABodyWhoseFramingIsForbiddenIsRefused(t *testing.T) {
	t.Parallel()
	everyWay(t, func(t *testing.T, reach func(t *testing.T, script func(w *wire)) (*rawTarget, *Dispatcher)) {
		t.Helper()
		for name, body := range forbiddenBodies {
			target, d := reach(t, func(w *wire) {
				for w.request() != nil && w.say(chunkedHead+body) {
				}
			})
			for n := range int64(2) {
				resp := do(t, d, batch.Action{Method: "POST", Timeout: 10 * time.Second})
				require.NotNil(t, resp.Result.Error, name)
				require.Equal(t, batch.CodeProtocol, resp.Result.Error.Code, "%s: %s", name, resp.Result.Error.Message)
				require.Equal(t, batch.Unknown, resp.Result.Outcome, name)
				require.Equal(t, n+1, target.conns.Load(), "%s: the connection was closed", name)
			}
		}
	})
}

// What RFC 9112 has a client accept.
func TestAnAnswerThatIsOnlyOddIsAccepted(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{
		"a minor version above":   "HTTP/1.2 200 OK\r\nContent-Length: 2\r\n\r\nhi",
		"no reason":               "HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nhi",
		"an empty reason":         "HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nhi",
		"a reason of other bytes": "HTTP/1.1 200 Tr\xe8s\tbien\r\nContent-Length: 2\r\n\r\nhi",
		"line ends of LF":         "HTTP/1.1 200 OK\nContent-Length: 2\n\nhi",
		"equal lengths":           "HTTP/1.1 200 OK\r\nContent-Length: 2\r\ncontent-length:2\r\n\r\nhi",
		"blanks around a length":  "HTTP/1.1 200 OK\r\nContent-Length: \t2 \t\r\n\r\nhi",
		"a folded header":         "HTTP/1.1 200 OK\r\nX-A: a\r\n\tb\r\n \r\nContent-Length: 2\r\n\r\nhi",
		"a folded coding":         "HTTP/1.1 200 OK\r\nTransfer-Encoding:\r\n chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
		"chunks in capitals":      "HTTP/1.1 200 OK\r\nTRANSFER-ENCODING: Chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
		"extensions and trailers": chunkedHead + "1;a=b;c=\"d\"\r\nh\r\n01;e\r\ni\r\n000;f\r\nX-A: b\r\nX-C: d\r\n\r\n",
		"blanks behind a size":    chunkedHead + "2   \r\nhi\r\n0\r\n\r\n",
		"informational answers":   "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + ok("", "hi"),
		"a length of HTTP/1.0":    "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi",
		"a name that is like one": "HTTP/1.1 200 OK\r\nX-Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\nhi",
		"a name of other letters": "HTTP/1.1 200 OK\r\nContent_Length: 7\r\nContent-Length: 2\r\n\r\nhi",
		"a length with zeros":     "HTTP/1.1 200 OK\r\nContent-Length: 0002\r\n\r\nhi",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			everyWay(t, func(t *testing.T, reach func(t *testing.T, script func(w *wire)) (*rawTarget, *Dispatcher)) {
				t.Helper()
				target, d := reach(t, func(w *wire) {
					for w.request() != nil && w.say(answer) {
					}
				})
				for range 3 {
					resp := do(t, d, batch.Action{Method: "POST"})
					require.Nil(t, resp.Result.Error)
					require.Equal(t, 200, resp.Result.Status)
					require.Equal(t, "hi", string(resp.Result.Body))
				}
				// On a busy machine net/http may give one up whose request was hardly written.
				require.Less(t, target.conns.Load(), int64(3), "the connection is kept")
			})
		})
	}
}

// Whatever comes behind an answer is not taken for the next one.
func TestWhatFollowsAnAnswerIsNotTheNextOne(t *testing.T) {
	t.Parallel()
	evil := "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
	for name, tt := range map[string]struct {
		method, answer string
		status         int
	}{
		"a length":           {"POST", ok("", "hi") + evil, 200},
		"chunks":             {"POST", chunkedHead + "2\r\nhi\r\n0\r\n\r\n" + evil, 200},
		"trailers":           {"POST", chunkedHead + "2\r\nhi\r\n0\r\nX-A: b\r\n\r\n" + evil, 200},
		"no body":            {"POST", ok("", "") + evil, 200},
		"204":                {"POST", "HTTP/1.1 204 No Content\r\n\r\n" + evil, 204},
		"204 with a length":  {"POST", "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nhi", 204},
		"204 with chunks":    {"POST", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 204},
		"103 with a length":  {"POST", "HTTP/1.1 103 Early Hints\r\nContent-Length: 2\r\n\r\n" + ok("", "hi"), 200},
		"103 with chunks":    {"POST", "HTTP/1.1 103 Early Hints\r\nTransfer-Encoding: chunked\r\n\r\n" + ok("", "hi"), 200},
		"304":                {"POST", "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\nhi", 304},
		"a body for HEAD":    {"HEAD", ok("", "hi"), 200},
		"chunks for HEAD":    {"HEAD", chunkedHead + "2\r\nhi\r\n0\r\n\r\n", 200},
		"a word of farewell": {"POST", ok("", "hi") + "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", 200},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			everyWay(t, func(t *testing.T, reach func(t *testing.T, script func(w *wire)) (*rawTarget, *Dispatcher)) {
				t.Helper()
				target, d := reach(t, func(w *wire) {
					for w.request() != nil && w.say(tt.answer) {
					}
				})
				for n := range int64(5) {
					resp := do(t, d, batch.Action{Method: tt.method, Body: []byte("x")})
					require.Nil(t, resp.Result.Error)
					require.Equal(t, tt.status, resp.Result.Status)
					require.NotContains(t, string(resp.Result.Body), "evil")
					require.Equal(t, n+1, target.conns.Load(), "the connection is not used again")
				}
			})
		})
	}
}

// Bytes may come in any portions.
func FuzzFramingDoesNotDependOnPortions(f *testing.F) {
	for _, answer := range forbiddenAnswers {
		f.Add(answer, uint8(1))
	}
	for _, body := range forbiddenBodies {
		f.Add(chunkedHead+body, uint8(2))
	}
	f.Add(chunkedHead+"1;a=b\r\nh\r\n0\r\nX-A: b\r\n\r\n"+empty, uint8(3))
	f.Fuzz(func(t *testing.T, answer string, portion uint8) {
		run := func(size int) (end error, usable bool) {
			var fr framer
			fr.expect(http.MethodPost)
			for rest := []byte(answer); len(rest) > 0; {
				part := rest[:min(size, len(rest))]
				n, err := fr.feed(part)
				if err != nil {
					return err, fr.usable()
				}
				require.Equal(t, len(part), n)
				rest = rest[n:]
			}
			return nil, fr.usable()
		}
		wholeErr, wholeUsable := run(len(answer) + 1)
		partErr, partUsable := run(int(portion) + 1)
		require.Equal(t, fmt.Sprint(wholeErr), fmt.Sprint(partErr))
		require.Equal(t, wholeUsable, partUsable)
	})
}

// rationed hands out a text, and notes if a reader wants more than there is: on a
// connection it would wait.
type rationed struct {
	rest  string
	waits bool
}

func (r *rationed) Read(p []byte) (int, error) {
	n := copy(p, r.rest)
	if r.rest = r.rest[n:]; n == 0 {
		r.waits = true
		return 0, io.ErrNoProgress
	}
	return n, nil
}

// What framer lets through, net/http reads in the same way: it neither waits for more
// than the answer, nor ends before it.
func FuzzFramingAgreesWithNetHTTP(f *testing.F) {
	for _, answer := range forbiddenAnswers {
		f.Add(answer)
	}
	for _, body := range forbiddenBodies {
		f.Add(chunkedHead + body)
	}
	f.Add(chunkedHead + "1;a=b\r\nh\r\n0\r\nX-A: b\r\n\r\nmore")
	f.Add(ok("X-A: a\r\n b\r\n", "hi") + "more")
	f.Fuzz(func(t *testing.T, answer string) {
		for _, method := range []string{http.MethodPost, http.MethodHead} {
			var fr framer
			fr.expect(method)
			n, _ := fr.feed([]byte(answer))
			if fr.fault != nil || fr.state == framingUntilEnd {
				return
			}
			source := &rationed{rest: answer[:n]}
			in := bufio.NewReader(source)
			err := readAnswer(in, method)
			if fr.state != framingOver {
				require.True(t, err != nil || source.waits, "net/http has an answer whose end the framer has not seen")
				continue
			}
			require.False(t, source.waits, "net/http waits for more than the answer")
			if err == nil { // it is the stricter one in what does not concern the framing
				require.Empty(t, source.rest, "both see the same end")
				require.Zero(t, in.Buffered(), "both see the same end")
			}
		}
	})
}

// readAnswer has net/http read an answer.
func readAnswer(in *bufio.Reader, method string) error {
	for {
		res, err := http.ReadResponse(in, &http.Request{Method: method})
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			return err
		}
		if res.StatusCode >= http.StatusOK {
			return nil
		}
	}
}
