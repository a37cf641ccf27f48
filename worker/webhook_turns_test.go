package worker

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

// mailroom delivers webhooks as asynq does: so many handlers take tasks in their order, and one that comes again is last.
type mailroom struct {
	turns *turns
	queue chan delivery

	mu      sync.Mutex
	ended   map[string]time.Duration // when the last delivery of an owner ended
	at      map[string]int           // deliveries of an owner at this time
	most    map[string]int
	delayed int
	all     sync.WaitGroup
}

type delivery struct {
	owner, host string
	lasts       time.Duration
}

func newMailroom() *mailroom {
	return &mailroom{turns: newTurns(webhookDeliveries), queue: make(chan delivery, 100_000), ended: map[string]time.Duration{}, at: map[string]int{}, most: map[string]int{}}
}

func (m *mailroom) add(n int, d delivery) {
	m.all.Add(n)
	for range n {
		m.queue <- d
	}
}

// run returns when everything is delivered.
func (m *mailroom) run() {
	start := time.Now()
	for range webhookHandlers {
		go func() {
			for d := range m.queue {
				m.handle(start, d)
			}
		}()
	}
	m.all.Wait()
	close(m.queue)
}

func (m *mailroom) handle(start time.Time, d delivery) {
	done, delay := m.turns.take(context.Background(), partiesOf(&batch.Batch{Owner: d.owner, WebhookURL: "https://" + d.host + "/"}))
	m.mu.Lock()
	defer m.mu.Unlock()
	if done == nil {
		m.delayed++
		time.AfterFunc(delay, func() { m.queue <- d })
		return
	}
	m.at[d.owner]++
	m.at[""]++
	for _, name := range []string{d.owner, ""} {
		m.most[name] = max(m.most[name], m.at[name])
	}
	m.mu.Unlock()
	time.Sleep(d.lasts)
	m.mu.Lock()
	m.at[d.owner]--
	m.at[""]--
	m.ended[d.owner] = time.Since(start)
	done()
	m.all.Done()
}

func TestSlowReceiversHoldUpTheirOwnWebhooksOnly(t *testing.T) {
	t.Parallel()
	for name, host := range map[string]func(i int) string{
		"one receiver":   func(int) string { return "slow.example" },
		"many receivers": func(i int) string { return fmt.Sprintf("slow%d.example", i) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m := newMailroom()
				for i := range 1000 {
					m.add(1, delivery{"alice", host(i), webhookTimeout})
				}
				m.add(5, delivery{"bob", "quick.example", 10 * time.Millisecond})
				m.run()
				require.Less(t, m.ended["bob"], webhookTimeout, "they come after 1000 webhooks of another owner")
				require.LessOrEqual(t, m.most["alice"], webhookDeliveries/2, "the other half is free")
				require.Less(t, m.ended["alice"], 2*1000*webhookTimeout/(webhookDeliveries/2), "her deliveries use her share")
				time.Sleep(2 * mostDelay)
				require.Empty(t, m.turns.parties)
			})
		})
	}
}

// A host that is slow holds up only what goes there.
func TestASlowHostHoldsUpItsOwnWebhooksOnly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMailroom()
		for i := range 100 {
			m.add(5, delivery{fmt.Sprint("owner", i), "slow.example", webhookTimeout})
		}
		m.add(1, delivery{"bob", "quick.example", time.Millisecond})
		m.run()
		require.Less(t, m.ended["bob"], webhookTimeout)
	})
}

func TestQuickReceiversAreNotDelayed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMailroom()
		m.add(10_000, delivery{"alice", "quick.example", 10 * time.Millisecond})
		m.run()
		require.Zero(t, m.delayed)
		require.Equal(t, 10_000/(webhookDeliveries/2)*10*time.Millisecond, m.ended["alice"], "half of the deliveries all the time")
	})
}

func TestATurnIsNotAwaitedInAShutdown(t *testing.T) {
	t.Parallel()
	turns := newTurns(1)
	done, _ := turns.take(t.Context(), []string{"a"})
	require.NotNil(t, done)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	none, delay := turns.take(ctx, []string{"b"})
	require.Nil(t, none)
	require.GreaterOrEqual(t, delay, leastDelay)
	done()
	done, _ = turns.take(ctx, []string{"b"})
	require.NotNil(t, done)
	done()
}
