package repair

import (
	"context"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/batch"
)

const (
	ActiveInterval = activeInterval
	IdleInterval   = idleInterval
	OverdueAfter   = overdueAfter
	PageSize       = pageSize
	DefaultSlowFor = defaultSlowFor
)

var ErrOtherSweeps = errOtherSweeps

// Page is a page of open batches.
type Page = openPage

// IDs returns the batches of the page.
func (p *openPage) IDs() []string { return p.ids }

// Now returns the server's time before the page was read.
func (p *openPage) Now() time.Time { return p.now }

// Closed reports whether an entry of the page can be removed.
func (p *openPage) Closed(id string) bool { return p.closed(id) }

func (s *Sweeper) DuePage(ctx context.Context, until time.Time) (*Page, error) {
	return s.duePage(ctx, until)
}

func (s *Sweeper) CloseEntries(ctx context.Context, page *Page, swept *batch.Swept) error {
	return s.closeEntries(ctx, page, swept)
}

func (s *Sweeper) SetDue(ctx context.Context, due map[string]time.Time) error {
	return s.pages.setDue(ctx, due)
}

func (s *Sweeper) CheckHolders(ctx context.Context) (int, error) { return s.checkHolders(ctx) }

// AskHoldersNow lets the next round ask for holders, however short the last time is ago.
func (s *Sweeper) AskHoldersNow() { s.holders.askedAt = time.Time{} }

// AddRunning has the sweeper know a batch that runs.
func (s *Sweeper) AddRunning(id string, m map[string]string) { s.holders.add(id, m) }

// Running returns the batches for whose holders the sweeper will ask.
func (s *Sweeper) Running() map[string]map[string]string { return s.holders.running }

// Missing returns the workers that are missing, and since when.
func (s *Sweeper) Missing() map[string]time.Time { return s.holders.missing }

// SetMissing has the sweeper know a worker that is missing.
func (s *Sweeper) SetMissing(worker string, since time.Time) {
	s.holders.missingLong(worker, since)
	s.holders.missing[worker] = since
}

// Checked returns the batches that the sweeper has checked.
func (s *Sweeper) Checked() (ids []string) {
	for id := range s.stuck.batches {
		ids = append(ids, id)
	}
	return ids
}

// ForgetChecked forgets the batches that the sweeper has checked.
func (s *Sweeper) ForgetChecked() { clear(s.stuck.batches) }

// Age makes a batch stand still for longer.
func (s *Sweeper) Age(id string, by time.Duration) {
	b := s.stuck.batches[id]
	b.since = b.since.Add(-by)
	s.stuck.batches[id] = b
}

// AgeSeen makes the last check of a batch older.
func (s *Sweeper) AgeSeen(id string, by time.Duration) {
	b := s.stuck.batches[id]
	b.seen = b.seen.Add(-by)
	s.stuck.batches[id] = b
}

// PruneNow lets the next round forget batches that it does not meet any more.
func (s *Sweeper) PruneNow() { s.stuck.pruned = time.Time{} }

// Alerted reports whether work may have been lost.
func (s *Sweeper) Alerted() bool { return s.schedule.alerted() }

// AlertEnd returns the end of the alert.
func (s *Sweeper) AlertEnd() time.Time { return s.schedule.alertEnd }

// OtherSweeps reports whether another worker has become the sweeper since the last round.
func (s *Sweeper) OtherSweeps() bool {
	s.schedule.mu.Lock()
	defer s.schedule.mu.Unlock()
	return s.schedule.other
}

// Claim takes or extends the lease of the recovery.
func (r *Recovery) Claim(ctx context.Context, worker string) error { return r.claim(ctx, worker) }

func BringsInterrupted(task string, found *redis.SliceCmd) bool {
	return bringsInterrupted(task, found)
}
