package repair

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/crash"
	"github.com/batchd/batchd/queue/fanout"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/tasks"
)

const (
	// SweepPage is the number of open batches looked at in one exchange.
	pageSize = 200
	// sweepFaults is the most faults after which a round goes on.
	maxFaults = 10
	// FanOutTimeout is how long a fan-out may stand still before the sweeper
	// takes it over.
	FanOutTimeout = 10 * time.Second
	// OverdueAfter is how long after the deadline an action may be in flight. It is
	// well beyond what the longest attempt takes, and below GRACE in batches/lua/grace.lua.
	overdueAfter = 6 * time.Hour
	// SlowFor is how long the looks of a round may take that take several exchanges. What becomes
	// due in the round, such as a deadline, waits for its end.
	defaultSlowFor = 4 * time.Second
	// lookFor is how long one look may take. What is left of it comes in the next round.
	defaultLookFor = 4 * time.Second
	// sweepLease is how long one process is the sweeper without saying so again.
	sweepLease = 15 * time.Second
	// renewEvery is how often a round that lasts says so again.
	defaultRenewEvery = sweepLease / 3
)

// ErrOtherSweeps is the cause of a context that ended because another worker is the sweeper.
var errOtherSweeps = errors.New("another worker is the sweeper")

// errLong is the cause of a context that ended because a look took all of its time.
var errCutShort = errors.New("the look at a batch goes on in the next round")

// Sweep implements [batch.Sweeper].
func (s *Sweeper) Sweep(ctx context.Context, worker string) (swept batch.Swept, ok bool, err error) {
	defer func() {
		if err != nil { // Redis may have been away, and may have forgotten something
			s.schedule.lookAtAll()
		}
	}()
	began := time.Now()
	is, err := s.electSweeper(ctx, worker)
	all := s.schedule.round(worker, is, began)
	if s.schedule.replaced() { // another process has looked at the batches since, or does now
		s.stuck, s.holders = stuckBatches{}, holders{}
	}
	if is == otherSweeps {
		return swept, false, err
	}
	ctx, ended := s.keepLease(ctx, worker)
	defer ended()
	if all {
		crash.At(crash.Elected)
		if err := s.MakeAllDue(ctx); err != nil {
			s.schedule.again()
			return swept, true, err
		}
	}
	s.stuck.nextRound()
	var faults []error
	var until time.Time // what becomes due while the round runs has its turn in the next one
	untold, slow := false, time.Duration(0)
	for {
		page, err := s.duePage(ctx, until)
		if err != nil {
			return swept, true, err
		}
		if until.IsZero() {
			until = page.now
		}
		swept.Open = max(swept.Open, page.open)
		page.webhooksUnreachable, page.slowTime = untold, slow
		faults = append(faults, s.sweepDue(ctx, page, &swept)...)
		untold, slow = page.webhooksUnreachable, page.slowTime
		if len(page.ids) < pageSize || len(faults) > maxFaults {
			s.stuck.prune(swept.Open, time.Now())
			lost, err := s.checkHolders(ctx)
			swept.Lost += lost
			return swept, true, errors.Join(append(faults, err, s.rescueLost(ctx, &swept))...)
		}
		if ctx.Err() != nil {
			return swept, true, errors.Join(append(faults, context.Cause(ctx))...)
		}
	}
}

// keepLease extends the lease of the sweeper from time to time until its round has ended. If
// another worker is the sweeper meanwhile, the context of the round ends.
func (s *Sweeper) keepLease(ctx context.Context, worker string) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(s.Timing.RenewEvery)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			began := time.Now()
			is, err := s.electSweeper(ctx, worker)
			if err != nil {
				continue // what the round does fails as well, or the next try succeeds
			}
			if s.schedule.round(worker, is, began) {
				s.schedule.again()
			}
			if is == otherSweeps {
				cancel(errOtherSweeps)
				return
			}
		}
	})
	return ctx, func() {
		close(done)
		cancel(nil)
		wg.Wait()
	}
}

// sweepDue looks at a page of batches, and says when they are due again.
func (s *Sweeper) sweepDue(ctx context.Context, page *openPage, swept *batch.Swept) (faults []error) {
	if err := s.closeEntries(ctx, page, swept); err != nil {
		faults = append(faults, err)
	}
	due := make(map[string]time.Time, len(page.ids))
	for _, id := range page.ids {
		due[id] = page.now.Add(activeInterval)
	}
	look := func(id string, changed bool) error {
		m := page.fields[id]
		ctx, cancel := context.WithTimeoutCause(ctx, s.Timing.LookFor, errCutShort)
		defer cancel()
		// A batch that cannot be repaired does not delay the others.
		err := s.sweepBatch(ctx, id, m, page.now, swept)
		switch {
		case errors.Is(err, errCutShort): // it is due soon
			s.stuck.cutShort(id)
		case err != nil:
			faults = append(faults, fmt.Errorf("sweep batch %s: %w", id, err))
		default:
			due[id] = s.stuck.earlier(id, m, s.Timing.StuckAfter, s.schedule.next(m, changed, page.now, page.open))
		}
		crash.At(crash.Sweeping)
		return err
	}
	var slow []slowBatch
	for _, id := range page.ids {
		m := page.fields[id]
		if m == nil || page.closed(id) {
			continue
		}
		s.holders.add(id, m)
		changed := s.stuck.note(id, m, page.now)
		told := batch.Status(m["status"]).Terminal()
		switch {
		case told && page.webhooksUnreachable: // the queue of webhooks cannot be reached
		case s.takesLong(id, m, page.now):
			slow = append(slow, slowBatch{id, changed})
			delete(due, id)
		default:
			err := look(id, changed)
			page.webhooksUnreachable = page.webhooksUnreachable || told && rdb.IsUnavailable(err)
		}
	}
	if page.fault != nil {
		faults = append(faults, page.fault)
	}
	if err := s.pages.setDue(ctx, due); err != nil {
		faults = append(faults, err)
	}
	if len(slow) == 0 {
		return faults
	}
	// Deadlines and webhooks of other pages do not wait for these. At least one of a round has
	// its turn, and those that are left are the first of the next round.
	clear(due)
	began := time.Now()
	for i, l := range slow {
		if (i > 0 || page.slowTime > 0) && page.slowTime+time.Since(began) >= s.Timing.SlowFor {
			due[l.id] = page.now.Add(time.Millisecond)
			continue
		}
		due[l.id] = page.now.Add(activeInterval)
		_ = look(l.id, l.changed) // among the faults
	}
	page.slowTime += time.Since(began)
	if err := s.pages.setDue(ctx, due); err != nil {
		faults = append(faults, err)
	}
	return faults
}

// slowLook is a look at a batch that takes several exchanges.
type slowBatch struct {
	id      string
	changed bool
}

// takesLong reports whether a look at a batch may take several exchanges: something of it may
// be lost, or its fan-out may have broken off.
func (s *Sweeper) takesLong(id string, m map[string]string, now time.Time) bool {
	if status := batch.Status(m["status"]); status == "" || status.Terminal() || now.After(rdb.FromMillis(m["expires"])) {
		return false
	}
	return now.Sub(s.stuck.batches[id].since) >= s.Timing.StuckAfter || rdb.Atoi(m["enqueued"]) < rdb.Atoi(m["total"])
}

// rescueLost puts back tasks that no worker holds. It takes a moment, so it runs once for all
// batches that make no progress and all queues from which a worker missed a reply.
func (s *Sweeper) rescueLost(ctx context.Context, swept *batch.Swept) error {
	queues := s.stuck.due(s.schedule.alerted())
	notes, fault := s.db.Members(ctx, keys.LostKey)
	for _, note := range notes {
		queue, _, _ := strings.Cut(note, " ")
		queues = append(queues, queue)
	}
	suspects, err := s.queuesWithExpiredLeases(ctx)
	fault = errors.Join(fault, err)
	if queues = append(queues, suspects...); len(queues) == 0 {
		return fault
	}
	slices.Sort(queues)
	found, err := s.rescue.rescueUnstarted(ctx, slices.Compact(queues))
	swept.Lost += found
	if err == nil {
		err = s.tasks.ForgetLost(ctx, notes)
	}
	return errors.Join(fault, err)
}

// electSweeper makes the worker the sweeper, or extends its lease.
func (s *Sweeper) electSweeper(ctx context.Context, worker string) (election, error) {
	answer, err := s.db.Run(ctx, Steps.Elect, []string{keys.SweeperKey}, worker, rdb.Millis(sweepLease))
	switch {
	case err != nil:
		return otherSweeps, err
	case answer[0] == "renewed":
		return leaseRenewed, nil
	case answer[0] == "taken":
		return leaseTaken, nil
	}
	return otherSweeps, nil
}

// sweepFields are those of the meta hash that a round looks at.
var sweepFields = []string{"status", "owner", "enqueued", "total", "fanned", "created", "expires", "outbox", "target", "lane", "ending", "throttle", "pending", "round", "asked", "given", "retried"}

// openPage are some of the open batches.
type openPage struct {
	ids                 []string
	fields              map[string]map[string]string // nil for one that could not be read
	staged              map[string]bool              // of those without a batch
	fault               error                        // why one could not be read
	now                 time.Time                    // before they were looked at
	open                int                          // so many there are in all
	webhooksUnreachable bool                         // the queue of webhooks could not be reached in this round
	slowTime            time.Duration                // what looks of this round took that take several exchanges
}

// DuePage takes a page of batches that are due at a time of the server's clock, or now if it
// is zero.
func (s *Sweeper) duePage(ctx context.Context, until time.Time) (*openPage, error) {
	upTo := ""
	if !until.IsZero() {
		upTo = strconv.FormatInt(until.UnixMilli(), 10)
	}
	answer, err := s.db.Run(ctx, Steps.DueBatches, []string{keys.OpenKey, keys.AlertKey}, pageSize, claimFor.Milliseconds(), 2*time.Second.Milliseconds()/looksPerSecond, upTo)
	if err != nil {
		return nil, fmt.Errorf("take the batches that are due: %w", err)
	}
	if len(answer) < 3 {
		return nil, rdb.ErrAnswer
	}
	if left := time.Duration(rdb.Atoi(answer[2])) * time.Millisecond; left > 0 {
		s.schedule.alertUntil(time.Now().Add(left))
	}
	page := s.pages.readPage(ctx, answer[3:])
	page.now, page.open = rdb.FromMillis(answer[0]), int(rdb.Atoi(answer[1]))
	return page, nil
}

// readPage reads what a round looks at of batches. One that cannot be read keeps no other
// from being.
func (s *pages) readPage(ctx context.Context, ids []string) *openPage {
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	cmds := make([]*redis.SliceCmd, len(ids))
	pipe := s.db.Client.Pipeline()
	for i, id := range ids {
		cmds[i] = pipe.HMGet(ctx, keys.KeysOf(id).Meta, sweepFields...)
	}
	s.db.Send(ctx, pipe)
	page := &openPage{ids: ids, fields: make(map[string]map[string]string, len(ids))}
	for i, id := range ids {
		if err := cmds[i].Err(); err != nil {
			page.fault = fmt.Errorf("read open batches: %w", rdb.MapError(ctx, err))
			continue
		}
		m := make(map[string]string, len(sweepFields))
		for j, v := range cmds[i].Val() {
			if text, ok := v.(string); ok {
				m[sweepFields[j]] = text
			}
		}
		page.fields[id] = m
	}
	var bare []string
	for id, m := range page.fields {
		if m["status"] == "" {
			bare = append(bare, id)
		}
	}
	var err error
	if page.staged, err = s.batches.Index.Staged(ctx, bare); err != nil {
		page.fault = fmt.Errorf("read open batches: %w", err)
		for _, id := range bare {
			delete(page.fields, id)
		}
	}
	return page
}

func (s *Sweeper) sweepBatch(ctx context.Context, id string, m map[string]string, now time.Time, swept *batch.Swept) error {
	switch status := batch.Status(m["status"]); {
	case status == "": // an upload that is about to commit
		return nil
	case status.Terminal():
		swept.Notified++
		return s.batches.Outbox.Enqueue(ctx, id, int(rdb.Atoi(m["outbox"])))
	case m["ending"] == "" && now.After(rdb.FromMillis(m["expires"])):
		swept.Expired++
		return s.batches.Expire(ctx, id)
	case now.After(rdb.FromMillis(m["expires"]).Add(overdueAfter)):
		swept.Expired++
		return s.batches.EndOverdue(ctx, id)
	}
	f := fanout.Batch{Flow: tasks.FlowOf(id, m), From: int(rdb.Atoi(m["enqueued"])), Total: int(rdb.Atoi(m["total"])), Resumed: true}
	if m["throttle"] != "" && m["ending"] == "" && int(rdb.Atoi(m["pending"])) == fanout.RoundSize(m)-int(rdb.Atoi(m["given"])) {
		return nil // it waits for its owner's limit, and nothing of it is in flight
	}
	if f.From >= f.Total || m["throttle"] != "" {
		return s.repairStuck(ctx, id, m, now, swept)
	}
	if m["ending"] != "" || now.Sub(fanOutMoved(m)) < FanOutTimeout && !s.stuck.wasCutShort(id) {
		return nil
	}
	swept.Resumed++
	return s.fanout.Offer(ctx, f)
}

// Closed reports whether there is nothing to be looked after in an entry: its batch has
// ended and its webhook is on its way, or it was deleted, has expired, or was an upload
// that came to nothing.
func (p *openPage) closed(id string) bool {
	m := p.fields[id]
	status := batch.Status(m["status"])
	return m != nil && (status.Terminal() && m["outbox"] == "" || status == "" && !p.staged[id])
}

// CloseEntries removes the entries in which there is nothing to be looked after.
func (s *Sweeper) closeEntries(ctx context.Context, page *openPage, swept *batch.Swept) error {
	var ids []string
	for _, id := range page.ids {
		if page.closed(id) {
			ids = append(ids, id)
			s.stuck.forget(id)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	removed, err := s.batches.Index.Unlist(ctx, keys.OpenKey, page.now, ids...)
	swept.Closed += removed
	return err
}

// Resign implements [batch.Sweeper]. A process that cannot say so is succeeded
// when its lease ends.
func (s *Sweeper) Resign(ctx context.Context, worker string) error {
	_, err := s.db.Run(ctx, Steps.Resign, []string{keys.SweeperKey}, worker)
	return err
}
