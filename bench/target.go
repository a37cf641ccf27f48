package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"sync/atomic"
	"time"
)

// listening matches the line that a child of this program prints once it is ready.
var listening = regexp.MustCompile(`(?m)^listening on (\S+)$`)

// runTarget is the subcommand "target": the API for the actions. It answers with the
// body of the request, after a delay.
func runTarget(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("target", flag.ContinueOnError)
	delay := flags.Duration("delay", 0, "how long an answer takes")
	if err := flags.Parse(args); err != nil {
		return err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	server := &http.Server{Handler: newTarget(*delay), ReadHeaderTimeout: time.Minute}
	fmt.Fprintf(os.Stdout, "listening on http://%s\n", l.Addr())
	return server.Serve(l)
}

// countPath is the path at which the target reports the number of its other requests.
const countPath = "/count"

func newTarget(delay time.Duration) http.Handler {
	var count atomic.Int64
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+countPath, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, strconv.FormatInt(count.Load(), 10)) // it fails only if the client is gone
	})
	mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
		count.Add(1)
		body := make([]byte, max(r.ContentLength, 0))
		if _, err := io.ReadFull(r.Body, body); err != nil {
			http.Error(w, "the body breaks off", http.StatusBadRequest)
			return
		}
		if delay > 0 {
			timer := time.NewTimer(delay)
			defer timer.Stop()
			select {
			case <-timer.C:
			case <-r.Context().Done():
				return
			}
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(body) // it fails only if the client is gone
	})
	return mux
}

// exchange sends one body to the target and returns the answer.
func exchange(ctx context.Context, hc *http.Client, target string, body io.Reader) (status int, answer []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target+path, body)
	if err != nil {
		return 0, nil, fmt.Errorf("make a request: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := hc.Do(req)
	if err != nil {
		return 0, nil, fmt.Errorf("send a request: %w", err)
	}
	defer resp.Body.Close()
	answer = make([]byte, max(resp.ContentLength, 0))
	if _, err := io.ReadFull(resp.Body, answer); err != nil {
		return 0, nil, fmt.Errorf("read an answer: %w", err)
	}
	return resp.StatusCode, answer, nil
}

// requestsAt asks the target for the number of its requests.
func requestsAt(ctx context.Context, target string) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target+countPath, nil)
	if err != nil {
		return 0, fmt.Errorf("make a request: %w", err)
	}
	resp, err := newHTTPClient(1, nil).Do(req)
	if err != nil {
		return 0, fmt.Errorf("ask the target what it got: %w", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	count, perr := strconv.Atoi(string(text))
	return count, errors.Join(err, perr)
}
