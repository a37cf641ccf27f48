package queue

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
	"github.com/batchd/batchd/queue/rdb"
)

const (
	// sweepPage is the number of open batches looked at in one exchange.
	sweepPage = 200
	// sweepFaults is the most faults after which a round goes on.
	sweepFaults = 10
	// fanOutPatience is how long a fan-out may stand still before the sweeper
	// takes it over.
	fanOutPatience = 10 * time.Second
	// overdueAfter is how long after the deadline an action may be in flight. It is
	// well beyond what the longest attempt takes, and below lua/lib.lua's GRACE.
	overdueAfter = 6 * time.Hour
	// slowFor is how long the looks of a round may take that take several exchanges. What becomes
	// due in the round, such as a deadline, waits for its end.
	slowFor = 4 * time.Second
	// lookFor is how long one look may take. What is left of it comes in the next round.
	lookFor = 4 * time.Second
	// sweepLease is how long one process is the sweeper without saying so again.
	sweepLease = 15 * time.Second
	// renewEvery is how often a round that lasts says so again.
	renewEvery = sweepLease / 3
)

// errOtherSweeps is the cause of a context that ended because another worker is the sweeper.
var errOtherSweeps = errors.New("another worker is the sweeper")

// errLong is the cause of a context that ended because a look took all of its time.
var errLong = errors.New("the look at a batch goes on in the next round")

// Sweep implements [batch.Sweeper].
func (s *Store) Sweep(ctx context.Context, worker string) (swept batch.Swept, ok bool, err error) {
	defer func() {
		if err != nil { // Redis may have been away, and may have forgotten something
			s.schedule.lookAtAll()
		}
	}()
	began := time.Now()
	is, err := s.electSweeper(ctx, worker)
	all := s.schedule.round(worker, is, began)
	if s.schedule.replaced() { // another process has looked at the batches since, or does now
		s.stalls, s.holders = stalls{}, holders{}
	}
	if is == otherSweeps {
		return swept, false, err
	}
	ctx, ended := s.keepLease(ctx, worker)
	defer ended()
	if all {
		crash.At(crash.Elected)
		if err := s.dueNow(ctx); err != nil {
			s.schedule.again()
			return swept, true, err
		}
	}
	s.stalls.nextRound()
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
		page.untold, page.slow = untold, slow
		faults = append(faults, s.sweepDue(ctx, page, &swept)...)
		untold, slow = page.untold, page.slow
		if len(page.order) < sweepPage || len(faults) > sweepFaults {
			s.stalls.prune(swept.Open, time.Now())
			lost, err := s.checkHolders(ctx)
			swept.Lost += lost
			return swept, true, errors.Join(append(faults, err, s.adoptLost(ctx, &swept))...)
		}
		if ctx.Err() != nil {
			return swept, true, errors.Join(append(faults, context.Cause(ctx))...)
		}
	}
}

// keepLease extends the lease of the sweeper from time to time until its round has ended. If
// another worker is the sweeper meanwhile, the context of the round ends.
func (s *Store) keepLease(ctx context.Context, worker string) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(s.renewEvery)
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
func (s *Store) sweepDue(ctx context.Context, page *openPage, swept *batch.Swept) (faults []error) {
	if err := s.closeEntries(ctx, page, swept); err != nil {
		faults = append(faults, err)
	}
	due := make(map[string]time.Time, len(page.order))
	for _, id := range page.order {
		due[id] = page.now.Add(lookSoon)
	}
	look := func(id string, changed bool) error {
		m := page.fields[id]
		ctx, cancel := context.WithTimeoutCause(ctx, s.lookFor, errLong)
		defer cancel()
		// A batch that cannot be repaired does not delay the others.
		err := s.sweepBatch(ctx, id, m, page.now, swept)
		switch {
		case errors.Is(err, errLong): // it is due soon
			s.stalls.goOn(id)
		case err != nil:
			faults = append(faults, fmt.Errorf("sweep batch %s: %w", id, err))
		default:
			due[id] = s.stalls.earlier(id, m, s.schedule.next(m, changed, page.now, page.open))
		}
		crash.At(crash.Sweeping)
		return err
	}
	var slow []slowLook
	for _, id := range page.order {
		m := page.fields[id]
		if m == nil || page.closed(id) {
			continue
		}
		s.holders.note(id, m)
		changed := s.stalls.note(id, m, page.now)
		told := batch.Status(m["status"]).Terminal()
		switch {
		case told && page.untold: // the queue of webhooks cannot be reached
		case s.takesLong(id, m, page.now):
			slow = append(slow, slowLook{id, changed})
			delete(due, id)
		default:
			err := look(id, changed)
			page.untold = page.untold || told && rdb.IsUnavailable(err)
		}
	}
	if page.fault != nil {
		faults = append(faults, page.fault)
	}
	if err := s.putDue(ctx, due); err != nil {
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
		if (i > 0 || page.slow > 0) && page.slow+time.Since(began) >= s.slowFor {
			due[l.id] = page.now.Add(time.Millisecond)
			continue
		}
		due[l.id] = page.now.Add(lookSoon)
		_ = look(l.id, l.changed) // among the faults
	}
	page.slow += time.Since(began)
	if err := s.putDue(ctx, due); err != nil {
		faults = append(faults, err)
	}
	return faults
}

// slowLook is a look at a batch that takes several exchanges.
type slowLook struct {
	id      string
	changed bool
}

// takesLong reports whether a look at a batch may take several exchanges: something of it may
// be lost, or its fan-out may have broken off.
func (s *Store) takesLong(id string, m map[string]string, now time.Time) bool {
	if status := batch.Status(m["status"]); status == "" || status.Terminal() || now.After(rdb.FromMillis(m["expires"])) {
		return false
	}
	return now.Sub(s.stalls.now[id].since) >= stallPatience || rdb.Atoi(m["enqueued"]) < rdb.Atoi(m["total"])
}

// adoptLost puts back tasks that nobody holds. It takes a moment, so it is done once for
// all batches that stand still and all queues of which a worker missed what it took.
func (s *Store) adoptLost(ctx context.Context, swept *batch.Swept) error {
	queues := s.stalls.due(s.schedule.alerted())
	notes, fault := s.db.Members(ctx, lostKey)
	for _, note := range notes {
		queue, _, _ := strings.Cut(note, " ")
		queues = append(queues, queue)
	}
	suspects, err := s.suspects(ctx)
	fault = errors.Join(fault, err)
	if queues = append(queues, suspects...); len(queues) == 0 {
		return fault
	}
	slices.Sort(queues)
	found, err := s.adopt(ctx, slices.Compact(queues))
	swept.Lost += found
	if err == nil {
		err = s.forgetLost(ctx, notes)
	}
	return errors.Join(fault, err)
}

// electSweeper makes the worker the sweeper, or extends its lease.
func (s *Store) electSweeper(ctx context.Context, worker string) (election, error) {
	answer, err := s.db.Run(ctx, s.steps.elect, []string{sweeperKey}, worker, rdb.Millis(sweepLease))
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
	order  []string
	fields map[string]map[string]string // nil for one that could not be read
	staged map[string]bool              // of those without a batch
	fault  error                        // why one could not be read
	now    time.Time                    // before they were looked at
	open   int                          // so many there are in all
	untold bool                         // the queue of webhooks could not be reached in this round
	slow   time.Duration                // what looks of this round took that take several exchanges
}

// duePage takes a page of batches that are due at a time of the server's clock, or now if it
// is zero.
func (s *Store) duePage(ctx context.Context, until time.Time) (*openPage, error) {
	upTo := ""
	if !until.IsZero() {
		upTo = strconv.FormatInt(until.UnixMilli(), 10)
	}
	answer, err := s.db.Run(ctx, s.steps.looks, []string{openKey, alertKey}, sweepPage, putOff.Milliseconds(), 2*time.Second.Milliseconds()/looksPerSecond, upTo)
	if err != nil {
		return nil, fmt.Errorf("take the batches that are due: %w", err)
	}
	if len(answer) < 3 {
		return nil, rdb.ErrAnswer
	}
	if left := time.Duration(rdb.Atoi(answer[2])) * time.Millisecond; left > 0 {
		s.schedule.alertUntil(time.Now().Add(left))
	}
	page := s.readPage(ctx, answer[3:])
	page.now, page.open = rdb.FromMillis(answer[0]), int(rdb.Atoi(answer[1]))
	return page, nil
}

// readPage reads what a round looks at of batches. One that cannot be read keeps no other
// from being.
func (s *Store) readPage(ctx context.Context, ids []string) *openPage {
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	cmds := make([]*redis.SliceCmd, len(ids))
	pipe := s.db.Client.Pipeline()
	for i, id := range ids {
		cmds[i] = pipe.HMGet(ctx, keysOf(id).meta, sweepFields...)
	}
	s.db.Send(ctx, pipe)
	page := &openPage{order: ids, fields: make(map[string]map[string]string, len(ids))}
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
	if page.staged, err = s.staged(ctx, bare); err != nil {
		page.fault = fmt.Errorf("read open batches: %w", err)
		for _, id := range bare {
			delete(page.fields, id)
		}
	}
	return page
}

func (s *Store) sweepBatch(ctx context.Context, id string, m map[string]string, now time.Time, swept *batch.Swept) error {
	switch status := batch.Status(m["status"]); {
	case status == "": // an upload that is about to commit
		return nil
	case status.Terminal():
		swept.Notified++
		return s.tell(ctx, id, int(rdb.Atoi(m["outbox"])))
	case m["ending"] == "" && now.After(rdb.FromMillis(m["expires"])):
		swept.Expired++
		return s.expire(ctx, id)
	case now.After(rdb.FromMillis(m["expires"]).Add(overdueAfter)):
		swept.Expired++
		return s.overdue(ctx, id)
	}
	f := fanOut{flow: flowOf(id, m), from: int(rdb.Atoi(m["enqueued"])), total: int(rdb.Atoi(m["total"])), resumed: true}
	if m["throttle"] != "" && m["ending"] == "" && int(rdb.Atoi(m["pending"])) == askedOf(m)-int(rdb.Atoi(m["given"])) {
		return nil // it waits for its owner's limit, and nothing of it is in flight
	}
	if f.from >= f.total || m["throttle"] != "" {
		return s.mendStall(ctx, id, m, now, swept)
	}
	if m["ending"] != "" || now.Sub(fanOutMoved(m)) < fanOutPatience && !s.stalls.goesOn(id) {
		return nil
	}
	swept.Resumed++
	return s.fanOut(ctx, f)
}

// closed reports whether there is nothing to be looked after in an entry: its batch has
// ended and its webhook is on its way, or it was deleted, has expired, or was an upload
// that came to nothing.
func (p *openPage) closed(id string) bool {
	m := p.fields[id]
	status := batch.Status(m["status"])
	return m != nil && (status.Terminal() && m["outbox"] == "" || status == "" && !p.staged[id])
}

// closeEntries removes the entries in which there is nothing to be looked after.
func (s *Store) closeEntries(ctx context.Context, page *openPage, swept *batch.Swept) error {
	var ids []string
	for _, id := range page.order {
		if page.closed(id) {
			ids = append(ids, id)
			s.stalls.forget(id)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	removed, err := s.unlist(ctx, openKey, page.now, ids...)
	swept.Closed += removed
	return err
}

// Resign implements [batch.Sweeper]. A process that cannot say so is succeeded
// when its lease ends.
func (s *Store) Resign(ctx context.Context, worker string) error {
	_, err := s.db.Run(ctx, s.steps.resign, []string{sweeperKey}, worker)
	return err
}
