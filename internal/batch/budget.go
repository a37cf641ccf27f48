package batch

import (
	"context"
	"sync"
	"time"
)

// Budget bounds the time that the store takes for one request, over all exchanges of the
// request. Time passes only while at least one exchange is in progress. Once nothing is
// left, the store answers [UnavailableError]. A Budget is safe for concurrent use. The
// nil budget has no bound.
type Budget struct {
	whole time.Duration

	mu    sync.Mutex
	left  time.Duration
	under int // exchanges in progress
	since time.Time
}

type budgetKey struct{}

// WithBudget returns a context with a new budget, which all exchanges with that context
// share. It replaces the budget of the given context.
func WithBudget(ctx context.Context, whole time.Duration) context.Context {
	return context.WithValue(ctx, budgetKey{}, &Budget{whole: whole, left: whole})
}

// WithoutBudget returns a context without a budget, for work that outlives its request.
func WithoutBudget(ctx context.Context) context.Context {
	if BudgetOf(ctx) == nil {
		return ctx
	}
	return context.WithValue(ctx, budgetKey{}, (*Budget)(nil))
}

// BudgetOf returns the budget of a context, or nil.
func BudgetOf(ctx context.Context) *Budget {
	b, _ := ctx.Value(budgetKey{}).(*Budget)
	return b
}

// Begin begins an exchange that needs at most the given time. It returns how long the
// exchange may take, which is 0 if the budget is spent. The caller must call End
// afterwards.
func (b *Budget) Begin(most time.Duration) time.Duration {
	if b == nil {
		return most
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	b.spend(now)
	b.under++
	b.since = now
	return max(0, min(most, b.left))
}

// End ends an exchange.
func (b *Budget) End() {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	b.spend(now)
	b.under--
	b.since = now
}

// Take subtracts a pause from the budget. If not more than the pause is left, it
// returns false and subtracts nothing.
func (b *Budget) Take(pause time.Duration) bool {
	if b == nil {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	b.spend(now)
	b.since = now
	if b.left <= pause {
		return false
	}
	b.left -= pause
	return true
}

// Refill restores the whole budget, for a request that has made progress, or that has
// waited for something other than the store.
func (b *Budget) Refill() {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left, b.since = b.whole, time.Now()
}

// spend subtracts the time that has passed since the last update. Concurrent exchanges
// spend that time only once.
func (b *Budget) spend(now time.Time) {
	if b.under > 0 {
		b.left -= now.Sub(b.since)
	}
}
