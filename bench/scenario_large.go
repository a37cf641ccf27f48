package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"slices"
	"time"

	"github.com/batchd/batchd/client"
)

const (
	largeBody  = 1 << 10 // bytes
	modest     = 1_000   // actions of the batches to which a large one is compared
	modestRuns = 10
)

func aboutLarge(s sizes) string {
	return fmt.Sprintf("%d POSTs of %d bytes in one NDJSON upload, %d in flight, beside %d batches of %d one after another; API and worker apart",
		s.large, largeBody, inFlight, modestRuns, modest)
}

func large(ctx context.Context, b *bench, out *section) error {
	const modestName, largeName = "modest", "large"
	for range b.rounds {
		err := b.inWorld(ctx, 0, b.fsync, func(ctx context.Context, w *world) error {
			// The bodies and results of a round are garbage in the next one.
			debug.FreeOSMemory()
			c, err := w.startBatchd(ctx, setup{split: true, concurrency: inFlight})
			if err != nil {
				return err
			}
			if err := w.run(ctx, c, "warm", 2*inFlight, largeBody); err != nil {
				return err
			}
			if err := w.runModest(ctx, c, out.row(modestName)); err != nil {
				return err
			}
			return w.runLarge(ctx, c, out.row(largeName), b.sizes.large)
		})
		if err != nil {
			return err
		}
	}
	for _, name := range []string{"took", "cpu_server_redis"} {
		out.goal("cost of an action, "+name+": large / modest", "", ratios(out.of(largeName, name), out.of(modestName, name)), "≤ 1.15", "")
	}
	out.goal("peak memory of the API", "MiB", out.of(largeName, "api_peak"), "≤ 128", "")
	out.goal("peak memory of the worker", "MiB", out.of(largeName, "worker_peak"), "≤ 128", "")
	out.goal("results as a stream", "MB/s", out.of(largeName, "stream"), "≥ 50", "")
	for _, phase := range []string{"api_uploading", "api_streaming"} {
		out.goal(phase+": peak / that of the first tenth", "", ratios(out.of(largeName, phase), out.of(largeName, phase+"_tenth")), "≤ 1.25", "")
	}
	return nil
}

// runModest runs batches of 1,000 one after another.
func (w *world) runModest(ctx context.Context, c *batchd, r *row) error {
	before, err := w.snapshot(ctx)
	if err != nil {
		return err
	}
	var took []float64
	var sent [][][]byte
	var answers [][]byte
	for i := range modestRuns {
		bodies := makeBodies(fmt.Sprintf("modest-%d", i), modest, largeBody)
		began := time.Now()
		id, err := c.upload(ctx, bodies)
		if err != nil {
			return err
		}
		answer, err := c.readInline(ctx, id)
		if err != nil {
			return err
		}
		took = append(took, float64(time.Since(began).Microseconds())/modest)
		sent, answers = append(sent, bodies), append(answers, answer)
	}
	after, err := w.snapshot(ctx)
	if err != nil {
		return err
	}
	for i, answer := range answers {
		results, err := decodeInline(answer)
		if err != nil {
			return err
		}
		if err := w.verify(sent[i], results); err != nil {
			return err
		}
	}
	if err := w.checkRequests(ctx); err != nil {
		return err
	}
	r.add("took", "µs/action", median(took))
	return w.usage(r, before, after, modest*modestRuns)
}

// runLarge runs one large batch, and measures the memory of both processes in each of
// its phases.
func (w *world) runLarge(ctx context.Context, c *batchd, r *row, n int) error {
	bodies := makeBodies("large", n, largeBody)
	api, worker := c.api.pid, c.workers[0].pid
	before, err := w.snapshot(ctx)
	if err != nil {
		return err
	}
	var phases memoryPhases
	var uploadTenth, streamTenth float64
	phases.begin(api, worker)
	began := time.Now()
	id, err := c.uploadFrom(ctx, &lines{bodies: bodies, mark: mark{at: n * largeBody / 10, reached: func() { uploadTenth = phases.end(api) }}})
	if err != nil {
		return err
	}
	uploaded := time.Since(began)
	uploadPeak := phases.end(api)
	if _, err := c.client.Wait(ctx, id); err != nil {
		return fmt.Errorf("wait for the large batch: %w", err)
	}
	ended := time.Since(began)
	runPeak, workerPeak := phases.end(api), phases.end(worker)
	phases.begin(api)
	answer := &answerBuffer{mark: mark{at: n * largeBody / 10, reached: func() { streamTenth = phases.end(api) }}}
	answer.text.Grow(3 * n * largeBody)
	if err := c.copyResults(ctx, id, answer); err != nil {
		return err
	}
	took := time.Since(began)
	streamPeak := phases.end(api)
	if phases.err != nil {
		return phases.err
	}
	after, err := w.snapshot(ctx)
	if err != nil {
		return err
	}
	if err := w.verifyAnswer(bodies, answer.text.Bytes()); err != nil {
		return err
	}
	if err := w.checkRequests(ctx); err != nil {
		return err
	}
	r.add("took", "µs/action", float64(took.Microseconds())/float64(n))
	r.add("uploaded", "s", uploaded.Seconds())
	r.add("ended", "s", ended.Seconds())
	r.add("read", "s", took.Seconds())
	r.add("stream", "MB/s", float64(answer.text.Len())/1e6/(took-ended).Seconds())
	r.add("api_uploading_tenth", "MiB", uploadTenth)
	r.add("api_uploading", "MiB", uploadPeak)
	r.add("api_streaming_tenth", "MiB", streamTenth)
	r.add("api_streaming", "MiB", streamPeak)
	r.add("api_peak", "MiB", max(uploadPeak, runPeak, streamPeak))
	r.add("worker_peak", "MiB", workerPeak)
	return w.usage(r, before, after, n)
}

// memoryPhases reads the memory of processes in MiB, and keeps the first error.
type memoryPhases struct{ err error }

// begin resets the peaks.
func (m *memoryPhases) begin(pids ...int) {
	for _, pid := range pids {
		m.note(resetPeak(pid))
	}
}

// end returns the peak since begin.
func (m *memoryPhases) end(pid int) float64 {
	bytes, err := peakOf(pid)
	m.note(err)
	return mib(bytes)
}

func (m *memoryPhases) note(err error) {
	if m.err == nil {
		m.err = err
	}
}

// upload submits actions as NDJSON, encoded as they are sent.
func (b *batchd) upload(ctx context.Context, bodies [][]byte) (id string, err error) {
	return b.uploadFrom(ctx, &lines{bodies: bodies})
}

func (b *batchd) uploadFrom(ctx context.Context, text io.Reader) (id string, err error) {
	batch, err := b.client.SubmitNDJSON(ctx, text, client.Options{})
	if err != nil {
		return "", fmt.Errorf("upload: %w", err)
	}
	return batch.ID, nil
}

// readEnded waits for the end of a batch and reads its results.
func (b *batchd) readEnded(ctx context.Context, id string, bodies [][]byte) ([]byte, error) {
	if _, err := b.client.Wait(ctx, id); err != nil {
		return nil, fmt.Errorf("wait for batch %s: %w", id, err)
	}
	return b.readResults(ctx, id, len(bodies)*len(bodies[0]))
}

// readInline waits for the end of a batch that is small enough to come with its
// results, and does not decode it.
func (b *batchd) readInline(ctx context.Context, id string) ([]byte, error) {
	resp, err := b.get(ctx, "/batch/"+id, http.Header{"Accept": {"application/json"}, "Prefer": {"wait=60"}})
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("read batch %s: %w", id, err)
	}
	return answer, nil
}

// decodeInline decodes a batch that has ended.
func decodeInline(answer []byte) ([]result, error) {
	var batch client.Batch
	if err := json.Unmarshal(answer, &batch); err != nil {
		return nil, fmt.Errorf("decode a batch: %w", err)
	}
	if !batch.Status.Terminal() {
		return nil, fmt.Errorf("batch %s is still %s", batch.ID, batch.Status)
	}
	return resultsOf(&batch), nil
}

// verifyAnswer checks results in NDJSON.
func (w *world) verifyAnswer(bodies [][]byte, answer []byte) error {
	results, err := decodeResults(answer, 0)
	if err != nil {
		return err
	}
	return w.verify(bodies, results)
}

// lines reads actions as NDJSON.
type lines struct {
	bodies [][]byte
	mark   mark
	text   bytes.Buffer
	next   []byte
}

// Read implements [io.Reader].
func (l *lines) Read(p []byte) (int, error) {
	for l.text.Len() < len(p) && len(l.bodies) > 0 {
		l.next = append(appendAction(slices.Grow(l.next[:0], len(l.bodies[0])+64), l.bodies[0]), '\n')
		l.text.Write(l.next)
		l.bodies = l.bodies[1:]
	}
	if l.text.Len() == 0 {
		return 0, io.EOF
	}
	n, err := l.text.Read(p)
	l.mark.pass(n)
	return n, err
}

// answerBuffer keeps what is written to it.
type answerBuffer struct {
	text bytes.Buffer
	mark mark
}

// Write implements [io.Writer].
func (b *answerBuffer) Write(p []byte) (int, error) {
	b.mark.pass(len(p))
	return b.text.Write(p)
}

// mark calls reached once, when a number of bytes have passed. The zero value never
// calls it.
type mark struct {
	at      int
	reached func()
}

func (m *mark) pass(n int) {
	m.at -= n
	if m.at <= 0 && m.reached != nil {
		m.reached()
		m.reached = nil
	}
}
