package batch

import (
	"context"
	"sync"
	"time"
)

// Budget bounds the time that the store takes for one request, over all exchanges that
// the request makes with it. A store spends it while at least one exchange is under way,
// and answers [UnavailableError] once nothing is left. It is safe for concurrent use.
// The nil budget has no bound.
type Budget struct {
	whole time.Duration

	mu    sync.Mutex
	left  time.Duration
	under int // exchanges that are under way
	since time.Time
}

type budgetKey struct{}

// WithBudget returns a context whose exchanges with a store share a budget of their own.
// It takes the place of the budget that the context has.
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

// BudgetOf returns the budget of a context, nil if it has none.
func BudgetOf(ctx context.Context) *Budget {
	b, _ := ctx.Value(budgetKey{}).(*Budget)
	return b
}

// Begin begins an exchange that may take as long as most. It returns how long it may
// take, which is 0 if nothing of the budget is left, and has to be followed by End.
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

// Take spends a pause. It reports false, and spends nothing, if there is not more than
// that left.
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

// Refill makes the budget whole again, for a request that has got on, or that has waited
// for something else than the store.
func (b *Budget) Refill() {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left, b.since = b.whole, time.Now()
}

// spend takes off the time that passed since it was last looked at. Exchanges that are
// under way at the same time spend it once.
func (b *Budget) spend(now time.Time) {
	if b.under > 0 {
		b.left -= now.Sub(b.since)
	}
}
