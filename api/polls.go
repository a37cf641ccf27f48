package api

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/batchd/batchd/internal/batch"
)

// polls read the batches that requests follow. All requests that follow one batch share
// its reads.
type polls struct {
	store batch.Store

	mu      sync.Mutex
	byBatch map[pollKey]*poll
}

type pollKey struct{ owner, id string }

func newPolls(store batch.Store) *polls {
	return &polls{store: store, byBatch: make(map[pollKey]*poll)}
}

// poll reads one batch for one owner.
type poll struct {
	*polls
	pollKey

	cancel context.CancelFunc
	stop   func() // ends the watch
	kick   chan struct{}

	// These are guarded by polls.mu.
	followers map[*follower]struct{}
	reads     int // the number of reads that have begun
	last      state
	lastAt    time.Time
}

// state is a batch as it was read, or why it could not be read.
type state struct {
	batch *batch.Batch
	err   error
}

// follower is a request that follows a batch.
type follower struct {
	poll *poll
	// news receives the state after each read, and the end of the batch at once.
	news  chan state
	every time.Duration
	few   int

	// These are guarded by polls.mu.
	due   time.Time
	after int // only a read after that many serves the follower
}

// follow follows a batch. The first read for the follower is due after a pause, and the
// next ones in intervals. Few is as for [batch.Store.Get]. The caller calls leave.
func (p *polls) follow(owner, id string, every, pause time.Duration, few int) *follower {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := pollKey{owner, id}
	one := p.byBatch[key]
	if one == nil {
		ctx, cancel := context.WithCancel(context.Background())
		one = &poll{polls: p, pollKey: key, cancel: cancel, kick: make(chan struct{}, 1), followers: make(map[*follower]struct{})}
		p.byBatch[key] = one
		// Watch before reading: otherwise an end in between would be missed.
		var wake <-chan *batch.Batch
		wake, one.stop = p.store.Watch(id)
		go one.run(ctx, wake)
	}
	f := &follower{poll: one, news: make(chan state, 1), every: every, few: few, due: time.Now().Add(pause), after: one.reads}
	one.followers[f] = struct{}{}
	one.wake()
	return f
}

// recent serves the follower with the last read, if that is not older than its interval.
func (f *follower) recent() {
	p := f.poll
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last.batch != nil && time.Since(p.lastAt) < f.every {
		f.due = p.lastAt.Add(f.every)
		f.tell(p.last)
	}
}

// now asks for a read that begins now.
func (f *follower) now() {
	p := f.poll
	p.mu.Lock()
	defer p.mu.Unlock()
	f.due, f.after = time.Now(), p.reads
	select {
	case <-f.news:
	default:
	}
	p.wake()
}

// leave ends following.
func (f *follower) leave() {
	p := f.poll
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.followers, f)
	if len(p.followers) == 0 && p.byBatch[p.pollKey] == p {
		delete(p.byBatch, p.pollKey)
		p.cancel()
		p.stop()
	}
}

// tell replaces the news that the follower has not taken. The caller has the lock.
func (f *follower) tell(s state) {
	select {
	case <-f.news:
	default:
	}
	f.news <- s
}

// wake lets run look at the followers again.
func (p *poll) wake() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// run reads the batch when a follower is due, until the last one has left.
func (p *poll) run(ctx context.Context, wake <-chan *batch.Batch) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Reset(time.Until(p.due()))
		select {
		case b := <-wake:
			if b != nil && b.Owner == p.owner {
				p.publish(state{batch: b}, -1)
				continue
			}
		case <-timer.C:
		case <-p.kick:
			continue
		case <-ctx.Done():
			return
		}
		few, read := p.begin()
		b, err := p.store.Get(batch.WithBudget(ctx, storeBudget), p.owner, p.id, few)
		if ctx.Err() != nil {
			return
		}
		p.publish(state{b, err}, read)
	}
}

// due returns when the first follower is due.
func (p *poll) due() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	first := time.Now().Add(time.Hour)
	for f := range p.followers {
		if f.due.Before(first) {
			first = f.due
		}
	}
	return first
}

// begin begins a read.
func (p *poll) begin() (few, read int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for f := range p.followers {
		few = max(few, f.few)
	}
	p.reads++
	return few, p.reads
}

// publish tells a state to the followers. A read that began before a follower asked does
// not serve it; the end of the batch, with the number -1, serves all.
func (p *poll) publish(s state, read int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last, p.lastAt = s, time.Now()
	for f := range p.followers {
		if read >= 0 && read <= f.after {
			continue
		}
		every := f.every
		if errors.As(s.err, new(*batch.UnavailableError)) {
			every = min(every, pollInterval/8) // the store may be back soon
		}
		f.due = p.lastAt.Add(every)
		f.tell(s)
	}
}
