package worker

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/redistest"
	"github.com/batchd/batchd/queue"
	"github.com/batchd/batchd/queue/consumer"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/tasks"
)

// post is a request to a receiver of webhooks.
type post struct {
	id     string
	header http.Header
	body   []byte
	answer chan int // receives the status for the answer
}

func (p *post) event(t *testing.T) (event struct {
	Type      string
	Timestamp time.Time
	Data      struct {
		Round   int
		Status  batch.Status
		Counts  batch.Counts
		Results []json.RawMessage
	}
},
) {
	t.Helper()
	require.NoError(t, json.Unmarshal(p.body, &event))
	return event
}

// rounds is a batch of two actions with a webhook. The second action fails in the first
// round, and waits for a signal in the next ones.
type rounds struct {
	*bundle
	id, url string
	goOn    chan struct{} // ends a round after the first
	posts   chan *post
	inspect *asynq.Inspector
	rdb     *redis.Client
}

func startRounds(t *testing.T, result []byte) *rounds {
	t.Helper()
	r := &rounds{goOn: make(chan struct{}), posts: make(chan *post, 16)}
	b := setup(t, func(ctx context.Context, req *batch.Request, attempt int) *batch.Response {
		resp := answer(200)
		if req.Index == 1 && attempt == 1 {
			resp = answer(400)
		} else if req.Index == 1 {
			select {
			case <-r.goOn:
			case <-ctx.Done():
			}
		}
		resp.Result.Body, resp.Result.Headers = result, []batch.Field{{Name: "content-type", Value: "application/json"}}
		return resp
	})
	url := redistest.Start(t).URL()
	store, err := queue.Open(queue.Config{Redis: rdb.Config{URL: rdb.URL(url)}, Timeout: 30 * time.Second})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	opt, err := redis.ParseURL(url)
	require.NoError(t, err)
	r.rdb = redis.NewClient(opt)
	t.Cleanup(func() { require.NoError(t, r.rdb.Close()) })
	r.inspect = asynq.NewInspectorFromRedisClient(r.rdb)
	b.store = store
	b.cfg.Ledger, b.cfg.Sweeper, b.cfg.Registry, b.cfg.Gate, b.cfg.NewServer = store.Ledger, store.Sweeper, store.Sweeper.Recovery, store.Gate, consumer.New(store).NewServer
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		p := &post{id: req.Header.Get("Webhook-Id"), header: req.Header, answer: make(chan int, 1)}
		p.body, _ = io.ReadAll(req.Body)
		r.posts <- p
		select {
		case status := <-p.answer:
			w.WriteHeader(status)
		case <-req.Context().Done():
		}
	}))
	t.Cleanup(receiver.Close)
	r.bundle = b
	r.url = receiver.URL
	r.id = b.withWebhook(r.url)
	b.run()
	return r
}

// next returns the next post. Its attempt lasts until the test answers it.
func (r *rounds) next() *post {
	r.t.Helper()
	select {
	case p := <-r.posts:
		return p
	case <-time.After(30 * time.Second):
		r.t.Fatal("no webhook came")
		return nil
	}
}

func (r *rounds) retry() {
	r.t.Helper()
	_, _, err := r.store.Retry(r.t.Context(), "me", r.id, &batch.RetrySpec{Outcomes: []batch.Outcome{batch.Failed}})
	require.NoError(r.t, err)
}

// tasks returns the tasks of webhooks that wait for another attempt.
func (r *rounds) tasks() []*asynq.TaskInfo {
	r.t.Helper()
	tasks, err := r.inspect.ListRetryTasks(tasks.WebhookQueue)
	require.NoError(r.t, err)
	return tasks
}

// hurry makes the waiting attempt at once.
func (r *rounds) hurry() {
	r.t.Helper()
	require.Eventually(r.t, func() bool {
		n, err := r.inspect.RunAllRetryTasks(tasks.WebhookQueue)
		require.NoError(r.t, err)
		return n == 1
	}, 30*time.Second, time.Millisecond)
}

var (
	endOfFirst  = batch.Counts{Total: 2, Succeeded: 1, Failed: 1}
	endOfSecond = batch.Counts{Total: 2, Succeeded: 2}
)

func TestARetryWithdrawsAWebhookThatWaitsForAnotherAttempt(t *testing.T) {
	t.Parallel()
	r := startRounds(t, []byte(`{}`))
	first := r.next()
	require.Equal(t, "msg_"+r.id, first.id)
	require.Equal(t, endOfFirst, first.event(t).Data.Counts)
	first.answer <- 500
	r.log(r.id, batch.DeliveryPending, 1)
	require.Eventually(t, func() bool { return len(r.tasks()) == 1 }, 30*time.Second, time.Millisecond)

	r.retry()
	due, err := r.inspect.RunAllRetryTasks(tasks.WebhookQueue) // as if it were due
	require.NoError(t, err)
	require.Zero(t, due)
	r.log(r.id, batch.DeliveryWaiting, 1)
	require.Empty(t, r.tasks())
	close(r.goOn)

	second := r.next()
	require.Equal(t, "msg_"+r.id+"_2", second.id)
	event := second.event(t)
	require.Equal(t, "batch.completed", event.Type)
	require.Equal(t, endOfSecond, event.Data.Counts)
	require.Equal(t, 2, event.Data.Round)
	second.answer <- 200
	l := r.log(r.id, batch.DeliveryDelivered, 2)
	require.Equal(t, second.id, l.MessageID)
	require.Equal(t, []string{first.id, second.id}, []string{l.Attempts[0].MessageID, l.Attempts[1].MessageID})
	require.Equal(t, []batch.PastDelivery{{Round: 1, MessageID: first.id, State: batch.DeliveryWithdrawn}}, l.Earlier)
	require.Empty(t, r.posts, "nothing else was sent")
}

func TestAnAttemptThatARetryMeetsSaysNothingOfTheNextRound(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		status int
		past   batch.DeliveryState
	}{
		"accepted": {200, batch.DeliveryDelivered},
		"refused":  {500, batch.DeliveryWithdrawn},
		"gone":     {410, batch.DeliveryGone},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := startRounds(t, []byte(`{}`))
			first := r.next() // its attempt stays in flight
			r.retry()
			first.answer <- test.status
			l := r.log(r.id, batch.DeliveryWaiting, 1)
			require.Equal(t, []batch.PastDelivery{{Round: 1, MessageID: first.id, State: test.past}}, l.Earlier)
			require.Nil(t, l.NextAt)
			require.Equal(t, 1, l.Attempts[0].Round)

			close(r.goOn)
			second := r.next()
			require.Equal(t, "msg_"+r.id+"_2", second.id)
			require.Equal(t, endOfSecond, second.event(t).Data.Counts)
			second.answer <- 200
			r.log(r.id, batch.DeliveryDelivered, 2)
			require.Empty(t, r.tasks(), "no attempt follows from the first")
		})
	}
}

func TestAnAttemptThatOutlivesTheNextRoundChangesNothing(t *testing.T) {
	t.Parallel()
	r := startRounds(t, []byte(`{}`))
	first := r.next()
	r.retry()
	close(r.goOn)
	second := r.next()
	require.Equal(t, endOfFirst, first.event(t).Data.Counts)
	require.Equal(t, endOfSecond, second.event(t).Data.Counts)
	second.answer <- 503
	r.log(r.id, batch.DeliveryPending, 1)
	first.answer <- 200
	l := r.log(r.id, batch.DeliveryPending, 2)
	require.NotNil(t, l.NextAt, "the end of the second round is still to be told")
	r.hurry()
	again := r.next()
	require.Equal(t, second.id, again.id)
	require.Equal(t, string(second.body), string(again.body))
	again.answer <- 200
	r.log(r.id, batch.DeliveryDelivered, 3)
}

func TestEveryRoundAndEveryRedeliveryHasTheWholeSchedule(t *testing.T) {
	t.Parallel()
	r := startRounds(t, []byte(`{}`))
	fail := func(attempts int) {
		t.Helper()
		for i := range attempts {
			p := r.next()
			p.answer <- 500
			if i < attempts-1 {
				r.hurry()
			}
		}
	}
	fail(len(schedule)) // one attempt of the first round is left
	r.log(r.id, batch.DeliveryPending, len(schedule))
	r.retry()
	close(r.goOn)
	fail(1)
	l := r.log(r.id, batch.DeliveryPending, len(schedule)+1)
	require.Less(t, time.Until(*l.NextAt), 2*schedule[0])
	r.hurry()
	fail(len(schedule))
	r.log(r.id, batch.DeliveryFailed, 2*len(schedule)+1)

	require.NoError(t, r.store.Redeliver(t.Context(), "me", r.id))
	fail(1)
	l = r.log(r.id, batch.DeliveryPending, 2*len(schedule)+2)
	require.Less(t, time.Until(*l.NextAt), 2*schedule[0])
}

func TestARedeliverySendsTheSameBytes(t *testing.T) {
	t.Parallel()
	// encoding/json would escape these characters.
	body := []byte("{\"text\":\"<b>A & B</b> \u2028\u2029\"}")
	r := startRounds(t, body)
	first := r.next()
	require.True(t, bytes.Contains(first.body, body), "results stand in it as they came: %s", first.body)
	page, err := r.store.Results(t.Context(), "me", r.id, batch.ResultQuery{Limit: 10})
	require.NoError(t, err)
	event := first.event(t)
	require.Len(t, event.Data.Results, 2)
	for i, result := range page.Results {
		require.Equal(t, string(result), string(event.Data.Results[i]), "as everywhere")
	}
	first.answer <- 500
	r.log(r.id, batch.DeliveryPending, 1)

	// Redeliver twice while an attempt waits: each is a delivery of its own, and withdraws the one
	// before.
	require.NoError(t, r.store.Redeliver(t.Context(), "me", r.id))
	second := r.next()
	require.NoError(t, r.store.Redeliver(t.Context(), "me", r.id))
	third := r.next()
	for _, again := range []*post{second, third} {
		require.Equal(t, first.id, again.id)
		require.Equal(t, string(first.body), string(again.body))
	}
	third.answer <- 200
	r.log(r.id, batch.DeliveryDelivered, 2)
	second.answer <- 500
	r.log(r.id, batch.DeliveryDelivered, 3)
	require.Empty(t, r.tasks(), "what was withdrawn is not tried again")
	require.Empty(t, r.posts)
}

func TestADeletedBatchLeavesNoWebhookToBeDelivered(t *testing.T) {
	t.Parallel()
	r := startRounds(t, []byte(`{}`))
	r.next().answer <- 500
	require.Eventually(t, func() bool { return len(r.tasks()) == 1 }, 30*time.Second, time.Millisecond)
	require.NoError(t, r.store.Delete(t.Context(), "me", r.id))
	require.Empty(t, r.tasks())

	id := r.submit(1, "GET", func(s *batch.Spec) { s.WebhookURL = "http://127.0.0.1:1" })
	r.log(id, batch.DeliveryPending, 1)
	require.Eventually(t, func() bool { return len(r.tasks()) == 1 }, 30*time.Second, time.Millisecond)
	require.NoError(t, r.store.Delete(t.Context(), "me", id))
	require.Empty(t, r.tasks())
}

// Receivers are built from the description of the API.
func TestWebhooksAreWhatTheDescriptionSays(t *testing.T) {
	t.Parallel()
	doc, err := openapi3.NewLoader().LoadFromFile("../api/openapi.yaml")
	require.NoError(t, err)
	hook := doc.Webhooks["batchEnded"].Post
	schema := hook.RequestBody.Value.Content["application/json"].Schema.Value
	check := func(body []byte) {
		t.Helper()
		var value any
		require.NoError(t, json.Unmarshal(body, &value))
		require.NoError(t, schema.VisitJSON(value, openapi3.EnableJSONSchema2020()), string(body))
	}
	r := startRounds(t, []byte(`{"a":[1,2]}`))
	first := r.next()
	for _, p := range hook.Parameters {
		require.NotEmpty(t, first.header.Get(p.Value.Name), p.Value.Name)
	}
	check(first.body)
	r.retry()
	_, err = r.store.Cancel(t.Context(), "me", r.id)
	require.NoError(t, err)
	close(r.goOn)
	check(r.next().body)

	large := r.submit(101, http.MethodGet, func(s *batch.Spec) { s.WebhookURL = r.url })
	body := r.next().body
	require.Contains(t, string(body), large)
	require.NotContains(t, string(body), `"results":[`)
	check(body)
	late := r.submit(1, http.MethodGet, func(s *batch.Spec) { s.WebhookURL, s.ExpiresIn = r.url, time.Nanosecond })
	body = r.next().body
	require.Contains(t, string(body), late)
	require.Contains(t, string(body), `"type":"batch.expired"`)
	check(body)
}
