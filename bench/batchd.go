package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/batchd/batchd/client"
)

// The log lines that show that batchd is ready.
var (
	batchdIsUp    = regexp.MustCompile(`"msg":"batchd is up","url":"([^"]+)"`)
	workerStarted = regexp.MustCompile(`"msg":"(worker started)"`)
)

// setup describes an installation of batchd.
type setup struct {
	split       bool // API and workers in separate processes
	workers     int  // number of worker processes if split; 0 is 1
	alone       bool // if split: the API without a worker
	concurrency int  // of a target, per worker; 0 is the load's number in flight
	targets     int  // 0 is 1
	rate        int  // requests per second to a target, over all workers; 0 is no bound
	sealed      bool
	passthrough bool // owners by credential
	batch       int  // actions per batch; 0 is all of a run in one batch
}

// batchd is the real binary, called over HTTP.
type batchd struct {
	setup

	url        string
	credential string   // of the owner of the batches; empty if the scenario needs none
	api        *process // serve, or the API
	workers    []*process
	http       *http.Client
	client     *client.Client
}

// startBatchd starts the processes of an installation.
func (w *world) startBatchd(ctx context.Context, s setup) (*batchd, error) {
	config, err := w.writeConfig(s)
	if err != nil {
		return nil, err
	}
	b := &batchd{setup: s, http: newHTTPClient(16, &w.http)}
	command := "serve"
	if s.split {
		command = "api"
	}
	if b.api, err = w.startServer("batchd-"+command, w.batchd, command, "--listen", "127.0.0.1:0", "--config", config); err != nil {
		return nil, err
	}
	if b.url, err = b.api.await(ctx, batchdIsUp); err != nil {
		return nil, err
	}
	if b.client, err = b.newClient(); err != nil {
		return nil, err
	}
	if s.alone {
		return b, nil
	}
	if !s.split {
		_, err = b.api.await(ctx, workerStarted)
		return b, err
	}
	for range max(s.workers, 1) {
		worker, err := w.startWorker(ctx, config)
		if err != nil {
			return nil, err
		}
		b.workers = append(b.workers, worker)
	}
	return b, nil
}

func (w *world) startWorker(ctx context.Context, config string) (*process, error) {
	p, err := w.startServer("batchd-worker", w.batchd, "worker", "--worker-listen", "127.0.0.1:0", "--config", config)
	if err != nil {
		return nil, err
	}
	_, err = p.await(ctx, workerStarted)
	return p, err
}

func (b *batchd) newClient(opts ...client.Option) (*client.Client, error) {
	c, err := client.New(b.url, append(opts, client.WithHTTPClient(b.http), client.WithRetryFor(0))...)
	if err != nil {
		return nil, fmt.Errorf("make a client: %w", err)
	}
	return c, nil
}

// writeConfig writes batchd's configuration. Settings that the scenario does not need
// keep their defaults.
func (w *world) writeConfig(s setup) (string, error) {
	var text strings.Builder
	fmt.Fprintf(&text, "log: {format: json}\nredis: {url: \"redis://%s/0\"}\n", w.redis.addr)
	if s.passthrough {
		text.WriteString("auth: {modes: [passthrough]}\n")
	}
	if s.sealed || s.passthrough {
		key := make([]byte, 32)
		_, _ = rand.Read(key) // it never fails
		fmt.Fprintf(&text, "seal: {keys: [{id: bench, base64: %q}]}\n", base64.StdEncoding.EncodeToString(key))
	}
	text.WriteString("targets:\n")
	for i := range max(s.targets, 1) {
		fmt.Fprintf(&text, "  - {name: target-%d, base_url: %q, concurrency: %d", i, w.targetURL, s.concurrency)
		if s.rate > 0 {
			fmt.Fprintf(&text, ", rate: %d/s", s.rate)
		}
		text.WriteString("}\n")
	}
	file := filepath.Join(w.dir, "batchd.yaml")
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		return "", fmt.Errorf("write the configuration: %w", err)
	}
	return file, nil
}

func (b *batchd) run(ctx context.Context, name string, bodies [][]byte) (timing, []result, error) {
	size := b.batch
	if size == 0 {
		size = len(bodies)
	}
	var took timing
	began := time.Now()
	batches := (len(bodies) + size - 1) / size
	ids, answers := make([]string, batches), make([][]byte, batches)
	err := eachInParallel(4, batches, func(i int) error {
		batch, err := b.client.SubmitJSON(ctx, document(bodies[i*size:min((i+1)*size, len(bodies))]), client.Options{})
		if err != nil {
			return fmt.Errorf("submit %s: %w", name, err)
		}
		ids[i] = batch.ID
		return nil
	})
	if err != nil {
		return timing{}, nil, err
	}
	took.submitted = time.Since(began)
	for _, id := range ids {
		if _, err := b.client.Wait(ctx, id); err != nil {
			return timing{}, nil, fmt.Errorf("wait for %s: %w", name, err)
		}
	}
	took.ended = time.Since(began)
	for i, id := range ids {
		if answers[i], err = b.readResults(ctx, id, size*len(bodies[0])); err != nil {
			return timing{}, nil, err
		}
	}
	took.read = time.Since(began)
	results := make([]result, 0, len(bodies))
	for i := range answers {
		some, err := decodeResults(answers[i], i*size)
		if err != nil {
			return timing{}, nil, err
		}
		results = append(results, some...)
	}
	return took, results, nil
}

// document encodes a batch.
func document(bodies [][]byte) io.Reader {
	doc := make([]byte, 0, len(bodies)*(len(bodies[0])+64))
	doc = append(doc, `{"actions":[`...)
	for i, body := range bodies {
		if i > 0 {
			doc = append(doc, ',')
		}
		doc = appendAction(doc, body)
	}
	return bytes.NewReader(append(doc, `]}`...))
}

// readResults reads the results of a batch as NDJSON without decoding them: decoding is
// the client's work, and the time of no contender includes it. About is the approximate
// number of bytes in the bodies.
func (b *batchd) readResults(ctx context.Context, id string, about int) ([]byte, error) {
	answer := bytes.NewBuffer(make([]byte, 0, 3*about))
	err := b.copyResults(ctx, id, answer)
	return answer.Bytes(), err
}

func (b *batchd) copyResults(ctx context.Context, id string, to io.Writer) error {
	resp, err := b.get(ctx, "/batch/"+id+"/results", http.Header{"Accept": {"application/x-ndjson"}})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("read the results of batch %s: %s", id, resp.Status)
	}
	if _, err := io.Copy(to, resp.Body); err != nil {
		return fmt.Errorf("read the results of batch %s: %w", id, err)
	}
	return nil
}

// get begins a request without the client package, which would decode the answer.
func (b *batchd) get(ctx context.Context, path string, header http.Header) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.url+path, nil)
	if err != nil {
		return nil, fmt.Errorf("make a request: %w", err)
	}
	req.Header = header
	if b.credential != "" {
		req.Header.Set("Authorization", "Bearer "+b.credential)
	}
	resp, err := b.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return resp, nil
}

// decodeResults decodes NDJSON. The indexes of the results begin at first.
func decodeResults(answer []byte, first int) ([]result, error) {
	var results []result
	for line := range bytes.Lines(answer) {
		var r client.Result
		if err := json.Unmarshal(line, &r); err != nil {
			return nil, fmt.Errorf("decode result %d: %w", first+len(results), err)
		}
		results = append(results, resultOf(&r, first))
	}
	return results, nil
}

// resultsOf returns the results that came with a batch.
func resultsOf(batch *client.Batch) []result {
	results := make([]result, 0, len(batch.Results))
	for i := range batch.Results {
		results = append(results, resultOf(&batch.Results[i], 0))
	}
	return results
}

func resultOf(r *client.Result, first int) result {
	out := result{index: first + r.Index, status: r.Status, body: r.Body}
	switch {
	case r.Error != nil:
		out.err = r.Error.Code + ": " + r.Error.Message
	case r.Outcome != client.Succeeded:
		out.err = "its outcome is " + string(r.Outcome)
	}
	return out
}
