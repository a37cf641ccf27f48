package ledger

import (
	"context"
	"time"
)

const SettleFor = settleFor

var VerifyAfter = verifyAfter

// Attempt is an attempt that the process remembers.
type Attempt = attempt

// BatchID returns the batch of the attempt.
func (a *attempt) BatchID() string { return a.id }

// Remembered returns the attempts that this process remembers.
func (l *Ledger) Remembered() []*Attempt { return l.attempts.all() }

// Compare marks the ends that are due for a comparison as compared, and returns their number.
func (l *Ledger) Compare(pass int, now time.Time) (ends int) {
	ranges, upTo := l.attempts.unverified(pass, now)
	l.attempts.verifiedUpTo(pass, upTo)
	for _, r := range ranges {
		ends += len(r.attempts)
	}
	return ends
}

// SettlesUntil returns the time until which no action is begun.
func (l *Ledger) SettlesUntil() time.Time {
	l.history.mu.Lock()
	defer l.history.mu.Unlock()
	return l.history.until
}

// SettleUntil changes that time.
func (l *Ledger) SettleUntil(at time.Time) {
	l.history.mu.Lock()
	defer l.history.mu.Unlock()
	l.history.until = at
}

// Histories returns the number of replication histories that are known.
func (l *Ledger) Histories() int {
	l.history.mu.Lock()
	defer l.history.mu.Unlock()
	return len(l.history.known)
}

// KnowAnotherHistory replaces the known replication histories by one that no server has.
func (l *Ledger) KnowAnotherHistory() {
	l.history.mu.Lock()
	defer l.history.mu.Unlock()
	l.history.known = map[string]struct{}{"another": {}}
}

func (r *Restorer) Restore(ctx context.Context, attempts []*Attempt) (int, error) {
	return r.restore(ctx, attempts)
}

func (r *Restorer) Disown(ctx context.Context, id, worker string, held []any) (int, error) {
	return r.disown(ctx, id, worker, held)
}

func (r *Restorer) VerifyEnded(ctx context.Context, now time.Time) error {
	return r.verifyEnded(ctx, now)
}
