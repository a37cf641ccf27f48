package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"github.com/batchd/batchd/api/auth"
	"github.com/batchd/batchd/client"
	"github.com/batchd/batchd/internal/config"
	"github.com/batchd/batchd/internal/setting"
	"github.com/batchd/batchd/internal/webhook"
)

func newDemoCmd() *cobra.Command {
	var keep, all bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Run a complete example in one process, within seconds",
		Long: fmt.Sprintf(`Run a complete example in one process: a real HTTP API (go-httpbin), batchd with
a store in memory, and a receiver of webhooks, all on free ports of this machine.
The demo submits a batch of %d mixed actions, some of which fail on purpose, and
compares every result with the expected one, in order.`, demoActions),
		Example: `  batchd demo
  batchd demo --keep`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			err := runDemo(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), keep, all)
			if err != nil && cmd.Context().Err() != nil {
				return errInterrupted
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&keep, "keep", false, "keep everything running until Ctrl-C, to try more")
	cmd.Flags().BoolVar(&all, "all", false, "print all results, not one of each kind")
	return cmd
}

// demo holds the parts of a running demonstration.
type demo struct {
	target, receiver *loopback
	batchd           *instance
	client           *client.Client
	hooks            *hookReceiver
}

func runDemo(ctx context.Context, stdout, stderr io.Writer, keep, all bool) (err error) {
	d, err := startDemo(ctx, stderr)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.close()) }()
	fmt.Fprintf(stdout, "target    %s  go-httpbin, a real HTTP API\nbatchd    %s  API, worker and store in memory\nreceiver  %s  of the webhook\n\n",
		d.target.url, d.batchd.URL, d.receiver.url)

	plan := newDemoPlan()
	batch, err := d.runBatch(ctx, stdout, stderr, plan)
	if err != nil {
		return err
	}
	if err := d.showResults(ctx, stdout, batch, plan, all); err != nil {
		return err
	}
	if err := d.awaitHook(ctx, stdout, batch); err != nil {
		return err
	}
	if keep {
		fmt.Fprintln(stdout, "\nAll of it keeps running until Ctrl-C. In another terminal, try:")
	} else {
		fmt.Fprintln(stdout, "\nWith --keep it keeps running, so that you can try:")
	}
	for _, hint := range [][2]string{
		{"unsuccessful actions", "batchd results ID --outcome failed,errored,unknown --server URL"},
		{"a batch of your own", `echo '{"method":"GET","path":"/uuid"}' | batchd submit - --wait --server URL`},
		{"the document, with all results", "curl -s URL/batch/ID"},
	} {
		fmt.Fprintf(stdout, "  # %s\n  %s\n", hint[0], strings.NewReplacer("URL", d.batchd.URL, "ID", batch.ID).Replace(hint[1]))
	}
	if !keep {
		return nil
	}
	<-ctx.Done()
	return nil
}

func startDemo(ctx context.Context, stderr io.Writer) (d *demo, err error) {
	d = &demo{}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close())
		}
	}()
	if d.target, err = listenLoopback(ctx, newDemoTarget()); err != nil {
		return nil, err
	}
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	secret := "whsec_" + base64.StdEncoding.EncodeToString(key)
	own, err := webhook.Config{Secret: setting.Secret(secret)}.OwnerSecrets(auth.Anonymous)
	if err != nil {
		return nil, err
	}
	d.hooks = &hookReceiver{secret: own.Secret.Reveal(), events: make(chan *client.Event, 1)}
	if d.receiver, err = listenLoopback(ctx, d.hooks); err != nil {
		return nil, err
	}
	// Ignore the environment: a demonstration must not touch a real Redis.
	cfg, err := config.Load(config.Options{Set: map[string]string{
		"target": d.target.url, "listen": "127.0.0.1:0", "webhooks.secret": secret, "webhooks.allow_private": "true",
	}})
	if err != nil {
		return nil, err
	}
	cfg.Targets[0].Retry.Attempts = demoAttempts
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	if d.batchd, err = startInstance(ctx, cfg, log, io.Discard, roles{api: true, worker: true}); err != nil {
		return nil, err
	}
	// Idle connections would keep batchd from draining at once.
	d.client, err = client.New(d.batchd.URL, client.WithHTTPClient(&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}))
	return d, err
}

// close stops all parts, batchd first, so that it can drain.
func (d *demo) close() error {
	var errs []error
	if d.batchd != nil {
		errs = append(errs, d.batchd.Close())
	}
	for _, l := range []*loopback{d.receiver, d.target} {
		if l != nil {
			errs = append(errs, l.server.Close())
		}
	}
	return errors.Join(errs...)
}

// runBatch submits the plan and follows it to its end.
func (d *demo) runBatch(ctx context.Context, stdout, stderr io.Writer, plan []planned) (*client.Batch, error) {
	actions := make([]client.Action, len(plan))
	for i := range plan {
		actions[i] = plan[i].action
	}
	batch, err := d.client.Submit(ctx, actions, client.Options{WebhookURL: d.receiver.url + "/hook"})
	if err != nil {
		return nil, fmt.Errorf("submit the batch: %w", err)
	}
	fmt.Fprintf(stdout, "accepted %d actions as batch %s\n", batch.Counts.Total, batch.ID)
	bar := newProgress(stderr)
	for update, err := range d.client.Events(ctx, batch.ID) {
		if err != nil {
			bar.clear()
			return nil, err
		}
		batch = update.Batch
		bar.update(batch)
	}
	bar.clear()
	fmt.Fprintf(stdout, "%s\n\n", summary(batch))
	return batch, nil
}

// showResults prints results, and compares each with the plan.
func (d *demo) showResults(ctx context.Context, stdout io.Writer, batch *client.Batch, plan []planned, all bool) error {
	tw := newTable("INDEX", "ACTION", "OUTCOME", "STATUS", "TRIES", "TIME", "WHAT IT SHOWS")
	tw.SetColumnConfigs([]table.ColumnConfig{right("INDEX"), right("STATUS"), right("TRIES"), right("TIME")})
	seen := map[string]bool{}
	var wrong []string
	n := 0
	for r, err := range d.client.Results(ctx, batch.ID, client.Filter{}) {
		if err != nil {
			return err
		}
		if n == len(plan) {
			return fmt.Errorf("there are more results than the %d actions", len(plan))
		}
		p := &plan[n]
		shows := p.kind.shows
		if fault := p.kind.want.check(n, r); fault != "" {
			wrong = append(wrong, fmt.Sprintf("result %d, %s: %s", n, p.kind.name, fault))
			shows = "NOT AS PLANNED"
		}
		if all || !seen[p.kind.name] {
			seen[p.kind.name] = true
			row := resultRow(r, answerColumns)
			row[1], row[len(row)-1] = p.action.Method+" "+p.action.Path, shows
			tw.AppendRow(row)
		}
		n++
	}
	fmt.Fprintln(stdout, tw.Render())
	if !all {
		fmt.Fprintln(stdout, "One of each kind is shown; --all shows every result.")
	}
	if n < len(plan) {
		wrong = append(wrong, fmt.Sprintf("%d results are missing", len(plan)-n))
	}
	if wrong != nil {
		return fmt.Errorf("%d results are not as planned:\n  %s", len(wrong), strings.Join(wrong[:min(len(wrong), 10)], "\n  "))
	}
	fmt.Fprintf(stdout, "\nresults   all %d are as planned, in the order of the actions\n", n)
	return nil
}

// webhookWait is how long the demonstration waits for its webhook.
const webhookWait = 15 * time.Second

func (d *demo) awaitHook(ctx context.Context, stdout io.Writer, batch *client.Batch) error {
	select {
	case event := <-d.hooks.events:
		if event.Batch.ID != batch.ID || event.Batch.Counts != batch.Counts {
			return fmt.Errorf("the webhook for batch %s has other counts", event.Batch.ID)
		}
		fmt.Fprintf(stdout, "webhook   %s was received, and its signature verified\n", event.Type)
		return nil
	case <-time.After(webhookWait):
		return fmt.Errorf("no webhook came within %s", webhookWait)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// hookReceiver receives webhooks that are signed with its secret.
type hookReceiver struct {
	secret string
	events chan *client.Event
}

// ServeHTTP implements [http.Handler].
func (h *hookReceiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 16<<20))
	if err != nil {
		http.Error(w, "cannot read the body", http.StatusBadRequest)
		return
	}
	event, err := client.VerifyWebhook(r.Header, body, h.secret)
	if err != nil {
		http.Error(w, "the signature is not valid", http.StatusUnauthorized)
		return
	}
	select {
	case h.events <- event:
	default: // delivered again, or of a later batch
	}
	w.WriteHeader(http.StatusNoContent)
}

// loopback is an HTTP server on a free port of this machine.
type loopback struct {
	server *http.Server
	url    string
}

func listenLoopback(ctx context.Context, handler http.Handler) (*loopback, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen on a free port: %w", err)
	}
	l := &loopback{
		server: &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second},
		url:    "http://" + listener.Addr().String(),
	}
	go func() { _ = l.server.Serve(listener) }() // Close ends it
	return l, nil
}
