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
	// pageSize is the most open batches that one exchange reads.
	pageSize = 200
	// maxFaults is the most errors after which a round continues.
	maxFaults = 10
	// FanOutTimeout is how long a fan-out may make no progress before the sweeper continues it.
	FanOutTimeout = 10 * time.Second
	// overdueAfter is how long after the deadline an action may be in flight. It is much longer
	// than the longest attempt, and shorter than GRACE in batches/lua/grace.lua.
	overdueAfter = 6 * time.Hour
	// defaultSlowFor is the default of [Timing.SlowFor].
	defaultSlowFor = 4 * time.Second
	// defaultLookFor is the default of [Timing.LookFor].
	defaultLookFor = 4 * time.Second
	// sweepLease is how long a worker remains the sweeper without extending its lease.
	sweepLease = 15 * time.Second
	// cleanEvery is the time between two looks at a part of the lists of batches; see [lists.Lists.Clean].
	cleanEvery = time.Minute
	// defaultRenewEvery is the default of [Timing.RenewEvery].
	defaultRenewEvery = sweepLease / 3
)

// errOtherSweeps is the cause of a context that ended because another worker is the sweeper.
var errOtherSweeps = errors.New("another worker is the sweeper")

// errCutShort is the cause of a context that ended because the check of a batch ran out of time.
var errCutShort = errors.New("the check of a batch continues in the next round")

// Sweep implements [batch.Sweeper]. Its context ends early if another worker becomes the sweeper
// during the round. After an error, the next rounds check all open batches.
func (s *Sweeper) Sweep(ctx context.Context, worker string) (swept batch.Swept, ok bool, err error) {
	defer func() {
		if err != nil { // Redis may have been away, and may have forgotten something
			s.schedule.lookAtAll()
		}
	}()
	began := time.Now()
	is, err := s.electSweeper(ctx, worker)
	all := s.schedule.round(worker, is, began)
	if s.schedule.replaced() { // another process has checked the batches since, or does so now
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
	var until time.Time // the next round checks the batches that become due after this time
	unreachable, slow := false, time.Duration(0)
	for {
		page, err := s.duePage(ctx, until)
		if err != nil {
			return swept, true, err
		}
		if until.IsZero() {
			until = page.now
		}
		swept.Open = max(swept.Open, page.open)
		page.webhooksUnreachable, page.slowTime = unreachable, slow
		faults = append(faults, s.sweepDue(ctx, page, &swept)...)
		unreachable, slow = page.webhooksUnreachable, page.slowTime
		if len(page.ids) < pageSize || len(faults) > maxFaults {
			s.stuck.prune(swept.Open, time.Now())
			lost, err := s.checkHolders(ctx)
			swept.Lost += lost
			s.batches.Quotas.Sweep(ctx)
			return swept, true, errors.Join(append(faults, err, s.rescueLost(ctx, &swept), s.cleanLists(ctx))...)
		}
		if ctx.Err() != nil {
			return swept, true, errors.Join(append(faults, context.Cause(ctx))...)
		}
	}
}

// keepLease extends the lease of the sweeper every Timing.RenewEvery until the caller ends the round
// with the returned function. If another worker becomes the sweeper meanwhile, the returned context
// ends.
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
				continue // the round fails as well, or the next try succeeds
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

// sweepDue checks a page of batches, and sets when each is due again. It makes the slow checks last.
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
		case errors.Is(err, errCutShort): // the batch stays due after activeInterval
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
		ended := batch.Status(m["status"]).Terminal()
		switch {
		case ended && page.webhooksUnreachable: // the sweeper cannot make the task of the webhook
		case s.takesLong(id, m, page.now):
			slow = append(slow, slowBatch{id, changed})
			delete(due, id)
		default:
			err := look(id, changed)
			page.webhooksUnreachable = page.webhooksUnreachable || ended && rdb.IsUnavailable(err)
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
	// The slow checks of a round share a time limit, so that deadlines and webhooks of other pages
	// do not wait long. A round makes at least one slow check. The remaining batches become due
	// first in the next round.
	clear(due)
	began := time.Now()
	for i, l := range slow {
		if (i > 0 || page.slowTime > 0) && page.slowTime+time.Since(began) >= s.Timing.SlowFor {
			due[l.id] = page.now.Add(time.Millisecond)
			continue
		}
		due[l.id] = page.now.Add(activeInterval)
		_ = look(l.id, l.changed) // look adds its error to faults
	}
	page.slowTime += time.Since(began)
	if err := s.pages.setDue(ctx, due); err != nil {
		faults = append(faults, err)
	}
	return faults
}

// slowBatch is a batch whose check needs several exchanges.
type slowBatch struct {
	id      string
	changed bool // the batch has made progress since the last check
}

// takesLong reports whether the check of a batch may need several exchanges: the batch may have lost
// tasks, or a crash may have interrupted its fan-out.
func (s *Sweeper) takesLong(id string, m map[string]string, now time.Time) bool {
	if status := batch.Status(m["status"]); status == "" || status.Terminal() || now.After(rdb.FromMillis(m["expires"])) {
		return false
	}
	return now.Sub(s.stuck.batches[id].since) >= s.Timing.StuckAfter || rdb.Atoi(m["enqueued"]) < rdb.Atoi(m["total"])
}

// cleanLists removes entries of batches that have expired from the lists of batches, once every cleanEvery.
func (s *Sweeper) cleanLists(ctx context.Context) error {
	if time.Since(s.cleaned) < cleanEvery {
		return nil
	}
	s.cleaned = time.Now()
	if _, err := s.lists.Clean(ctx); err != nil {
		return fmt.Errorf("clean the lists of batches: %w", err)
	}
	return nil
}

// rescueLost returns tasks to their queues that no worker runs. It needs at least ConfirmDelay, so a
// round calls it once, for all queues of stuck batches, all queues whose poll a worker has reported as
// lost, and all queues with expired leases.
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

// electSweeper makes the worker the sweeper, or extends its lease, unless another worker is the
// sweeper.
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

// sweepFields are the fields of the meta hash that a round needs.
var sweepFields = []string{"status", "owner", "enqueued", "total", "fanned", "created", "expires", "outbox", "target", "lane", "ending", "throttle", "pending", "round", "asked", "given", "retried"}

// openPage is a page of the open batches.
type openPage struct {
	ids                 []string
	fields              map[string]map[string]string // of the meta hash, by batch; none for a batch that readPage could not read
	staged              map[string]bool              // entries without a batch whose upload may still commit
	fault               error                        // the last error of a batch that readPage could not read
	now                 time.Time                    // Redis's time, before the read
	open                int                          // the number of all open batches
	webhooksUnreachable bool                         // in this round, Redis did not accept a webhook task
	slowTime            time.Duration                // how long the slow checks of this round have taken
}

// duePage claims and reads a page of batches that are due at the time until, by Redis's clock, or now
// if until is zero.
func (s *Sweeper) duePage(ctx context.Context, until time.Time) (*openPage, error) {
	upTo := ""
	if !until.IsZero() {
		upTo = strconv.FormatInt(until.UnixMilli(), 10)
	}
	answer, err := s.db.Run(ctx, Steps.DueBatches, []string{keys.OpenKey, keys.AlertKey}, pageSize, claimFor.Milliseconds(), 2*time.Second.Milliseconds()/looksPerSecond, upTo)
	if err != nil {
		return nil, fmt.Errorf("claim the due batches: %w", err)
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

// readPage reads the fields of batches that a round needs. If it cannot read a batch, it still reads
// the others, and page.fault has the error.
func (p *pages) readPage(ctx context.Context, ids []string) *openPage {
	ctx, cancel := p.db.WithTimeout(ctx)
	defer cancel()
	cmds := make([]*redis.SliceCmd, len(ids))
	pipe := p.db.Client.Pipeline()
	for i, id := range ids {
		cmds[i] = pipe.HMGet(ctx, keys.KeysOf(id).Meta, sweepFields...)
	}
	p.db.Send(ctx, pipe)
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
	if page.staged, err = p.batches.Index.Staged(ctx, bare); err != nil {
		page.fault = fmt.Errorf("read open batches: %w", err)
		for _, id := range bare {
			delete(page.fields, id)
		}
	}
	return page
}

// sweepBatch checks a batch and makes the repair that its state needs: it makes the webhook's task of
// an ended batch, ends an expired or overdue batch, continues an interrupted fan-out, or looks for lost
// work. It counts the repair in swept.
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
		return nil // the batch waits for its owner's limit, and none of its actions is in flight
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

// closed reports whether the sweeper can remove an entry of the page: its batch has ended and the
// webhook's task exists, or the batch was deleted, has expired, or comes from an upload that failed.
func (p *openPage) closed(id string) bool {
	m := p.fields[id]
	status := batch.Status(m["status"])
	return m != nil && (status.Terminal() && m["outbox"] == "" || status == "" && !p.staged[id])
}

// closeEntries removes the closed entries of a page from the open batches.
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

// Resign implements [batch.Sweeper]. If it fails, another worker can become the sweeper when the lease
// expires.
func (s *Sweeper) Resign(ctx context.Context, worker string) error {
	_, err := s.db.Run(ctx, Steps.Resign, []string{keys.SweeperKey}, worker)
	return err
}
