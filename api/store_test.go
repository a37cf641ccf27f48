package api

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/batchd/batchd/internal/batch"
)

var _ batch.Store = (*fakeStore)(nil)

// fakeStore keeps batches in memory. Tests do the work of a worker with finish, or at
// once with run.
type fakeStore struct {
	mu       sync.Mutex
	now      func() time.Time
	batches  map[string]*fakeBatch
	order    []string
	keys     map[string]*fakeKey
	uploads  int             // open ones
	opens    int             // all that were opened
	charged  []batch.Account // by the last upload or retry
	refusal  error           // of the next Add, if it is set
	admitted int             // actions, by any limit
	asked    *batch.Limit    // for the last actions
	watchers map[string]map[chan *batch.Batch]struct{}
	// down is the error of every call, after the first few calls.
	down      error
	downAfter int
	// run, if set, ends an action as soon as its batch is committed.
	run func(index int, a *batch.Action) *batch.Result
	// largest is the largest number of results that a request asked for at once.
	largest int
	// firsts counts the batches that were read with their first results.
	firsts int
	gets   int // the number of reads of a batch
	// hands: a request that watches a batch receives the batch when it ends.
	hands bool
}

type fakeBatch struct {
	batch.Batch
	throttle *batch.Limit // of its last round
	actions  []batch.Action
	results  []*batch.Result
	log      batch.DeliveryLog
}

type fakeKey struct {
	fingerprint []byte
	id          string
}

func newFakeStore() *fakeStore {
	return &fakeStore{
		now:      func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 678_900_000, time.UTC) },
		batches:  make(map[string]*fakeBatch),
		keys:     make(map[string]*fakeKey),
		watchers: make(map[string]map[chan *batch.Batch]struct{}),
	}
}

// lock begins a call; it fails while the store is down.
func (s *fakeStore) lock() (func(), error) {
	s.mu.Lock()
	if s.down != nil {
		if s.downAfter == 0 {
			err := s.down
			s.mu.Unlock()
			return nil, err
		}
		s.downAfter--
	}
	return s.mu.Unlock, nil
}

func (s *fakeStore) find(owner, id string) (*fakeBatch, error) {
	b := s.batches[id]
	if b == nil || b.Owner != owner {
		return nil, fmt.Errorf("find: %w", batch.ErrNotFound)
	}
	return b, nil
}

type fakeUpload struct {
	s        *fakeStore
	owner    string
	key      string
	replayed bool
	done     bool
	actions  []batch.Action
}

func (s *fakeStore) Open(_ context.Context, owner, key string) (batch.Upload, error) {
	unlock, err := s.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	u := &fakeUpload{s: s, owner: owner}
	if key != "" {
		u.key = owner + "\x00" + key
		if k := s.keys[u.key]; k != nil {
			if k.id == "" {
				return nil, fmt.Errorf("open: %w", batch.ErrKeyBusy)
			}
			u.replayed = true
		} else {
			s.keys[u.key] = &fakeKey{}
		}
	}
	s.uploads++
	s.opens++
	return u, nil
}

func (u *fakeUpload) Add(_ context.Context, a *batch.Action) error {
	unlock, err := u.s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if u.done {
		panic("add after the end of the upload")
	}
	if u.replayed {
		return nil
	}
	if u.s.refusal != nil {
		return u.s.refusal
	}
	c := *a
	c.Headers = slices.Clone(a.Headers)
	c.Body = bytes.Clone(a.Body)
	u.actions = append(u.actions, c)
	return nil
}

func (u *fakeUpload) Charge(accounts ...batch.Account) {
	u.s.mu.Lock()
	defer u.s.mu.Unlock()
	u.s.charged = accounts
}

func (u *fakeUpload) Admit(_ context.Context, n int, limit batch.Limit, partial bool) (int, batch.LimitState, error) {
	unlock, err := u.s.lock()
	if err != nil {
		return 0, batch.LimitState{}, err
	}
	defer unlock()
	return u.s.admit(n, limit, partial)
}

func (s *fakeStore) admit(n int, limit batch.Limit, partial bool) (int, batch.LimitState, error) {
	s.asked = &limit
	room := n
	if limit.Rate.N > 0 {
		room = min(n, limit.Rate.N-s.admitted)
	}
	state := batch.LimitState{Limit: limit, Remaining: limit.Rate.N - s.admitted, Reset: time.Minute}
	if room < n && !partial {
		e := &batch.LimitedError{State: state, Detail: "too many just now"}
		if n <= limit.Rate.N {
			e.RetryAfter = 1500 * time.Millisecond
		}
		return 0, state, e
	}
	s.admitted += room
	state.Remaining -= room
	return room, state, nil
}

func (u *fakeUpload) Commit(_ context.Context, spec *batch.Spec) (*batch.Batch, bool, error) {
	unlock, err := u.s.lock()
	if err != nil {
		return nil, false, err
	}
	defer unlock()
	s := u.s
	u.done = true
	s.uploads--
	if u.replayed {
		k := s.keys[u.key]
		if !bytes.Equal(k.fingerprint, spec.Fingerprint) {
			return nil, false, fmt.Errorf("commit: %w", batch.ErrKeyReused)
		}
		b := s.batches[k.id].Batch
		return &b, true, nil
	}
	now := s.now()
	b := &fakeBatch{actions: u.actions, results: make([]*batch.Result, len(u.actions)), throttle: spec.Throttle}
	b.Batch = batch.Batch{
		ID: fmt.Sprintf("batch-%d", len(s.order)+1), Owner: u.owner, Target: spec.Target, Status: batch.StatusQueued,
		Lane:   batch.LaneFor(len(u.actions), spec.Waited),
		Counts: batch.Counts{Total: len(u.actions), Pending: len(u.actions)}, WebhookURL: spec.WebhookURL, WebhookSecret: spec.WebhookSecret, Metadata: spec.Metadata, Scope: spec.Scope,
		CreatedAt: now, ExpiresAt: now.Add(spec.ExpiresIn), Retention: spec.Retention,
	}
	b.log = batch.DeliveryLog{Round: 1, MessageID: "msg_" + b.ID, State: batch.DeliveryWaiting}
	for i := range b.results {
		b.results[i] = &batch.Result{ID: batch.ActionID(u.actions[i].ID, i), Index: i}
	}
	s.batches[b.ID] = b
	s.order = append(s.order, b.ID)
	if u.key != "" {
		s.keys[u.key] = &fakeKey{fingerprint: spec.Fingerprint, id: b.ID}
	}
	if s.run != nil {
		for i := range b.actions {
			s.end(b, i, s.run(i, &b.actions[i]))
		}
	}
	view := b.Batch
	return &view, false, nil
}

func (u *fakeUpload) Abort(ctx context.Context) {
	if ctx.Err() != nil {
		panic("abort with a context that has ended drops nothing")
	}
	u.s.mu.Lock()
	defer u.s.mu.Unlock()
	if u.done {
		return
	}
	u.done = true
	u.s.uploads--
	if u.key != "" && !u.replayed {
		delete(u.s.keys, u.key)
	}
}

// end records a result. The caller holds the lock.
func (s *fakeStore) end(b *fakeBatch, index int, r *batch.Result) {
	r.ID, r.Index = batch.ActionID(b.actions[index].ID, index), index
	b.results[index] = r
	*b.Counts.Of(r.Outcome)++
	b.Counts.Pending--
	if b.StartedAt.IsZero() {
		b.StartedAt = s.now()
		b.Status = batch.StatusRunning
	}
	if b.Counts.Pending == 0 {
		b.EndedAt = s.now()
		b.Status = batch.StatusCompleted
		var handed *batch.Batch
		if s.hands {
			view := b.Batch
			view.First, _ = b.page(batch.ResultQuery{Limit: firstInFake})
			handed = &view
		}
		for w := range s.watchers[b.ID] {
			select {
			case w <- handed:
			default:
			}
		}
	}
}

// finish ends an action, as a worker does.
func (s *fakeStore) finish(id string, index int, r *batch.Result) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end(s.batches[id], index, r)
}

func (s *fakeStore) setDown(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = err
}

// holds returns the number of objects in the store: batches, open uploads, keys.
func (s *fakeStore) holds() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.batches) + s.uploads + len(s.keys)
}

// stored returns the actions of a batch.
func (s *fakeStore) stored(id string) []batch.Action {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.batches[id].actions
}

func (s *fakeStore) Get(ctx context.Context, owner, id string, few int) (*batch.Batch, error) {
	unlock, err := s.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.gets++
	b, err := s.find(owner, id)
	if err != nil {
		return nil, err
	}
	view := b.Batch
	if few > 0 && b.Status.Terminal() && b.Counts.Total <= few {
		s.firsts++
		view.First, err = b.page(batch.ResultQuery{Limit: min(few, firstInFake)})
	}
	return &view, err
}

func (s *fakeStore) OwnerOf(_ context.Context, owners batch.Owners, id string) (string, error) {
	unlock, err := s.lock()
	if err != nil {
		return "", err
	}
	defer unlock()
	if b := s.batches[id]; b != nil && owners.Has(b.Owner) {
		return b.Owner, nil
	}
	return "", fmt.Errorf("owner: %w", batch.ErrNotFound)
}

func (s *fakeStore) List(_ context.Context, owners batch.Owners, cursor string, limit int) ([]*batch.Batch, string, error) {
	unlock, err := s.lock()
	if err != nil {
		return nil, "", err
	}
	defer unlock()
	var found []*batch.Batch
	begun := cursor == ""
	for _, id := range slices.Backward(s.order) {
		if b := s.batches[id]; begun && b != nil && owners.Has(b.Owner) {
			if len(found) == limit {
				return found, found[limit-1].ID, nil
			}
			view := b.Batch
			found = append(found, &view)
		}
		begun = begun || id == cursor
	}
	return found, "", nil
}

func (s *fakeStore) Results(_ context.Context, owner, id string, q batch.ResultQuery) (*batch.ResultPage, error) {
	unlock, err := s.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	b, err := s.find(owner, id)
	if err != nil {
		return nil, err
	}
	if q.Limit < 1 {
		panic("a page of no results")
	}
	s.largest = max(s.largest, q.Limit)
	return b.page(q)
}

// firstInFake is the number of results that the store returns with a batch.
const firstInFake = 3

func (b *fakeBatch) page(q batch.ResultQuery) (*batch.ResultPage, error) {
	page := &batch.ResultPage{Next: -1}
	for i := q.From; i < len(b.results); i++ {
		if len(page.Results) == q.Limit {
			page.Next = i
			break
		}
		if len(q.Outcomes) == 0 || slices.Contains(q.Outcomes, b.results[i].Outcome) {
			page.Results = append(page.Results, b.results[i].Encode())
		}
	}
	return page, nil
}

func (s *fakeStore) Retry(_ context.Context, owner, id string, spec *batch.RetrySpec) (*batch.Batch, *batch.LimitState, error) {
	unlock, err := s.lock()
	if err != nil {
		return nil, nil, err
	}
	defer unlock()
	b, err := s.find(owner, id)
	if err != nil {
		return nil, nil, err
	}
	if !b.Status.Terminal() {
		return nil, nil, fmt.Errorf("retry: %w", batch.ErrNotTerminal)
	}
	var again []*batch.Result
	for _, r := range b.results {
		if slices.Contains(spec.Outcomes, r.Outcome) {
			again = append(again, r)
		}
	}
	if len(again) == 0 {
		return nil, nil, fmt.Errorf("retry: %w", batch.ErrNothingToRetry)
	}
	s.charged = spec.Accounts
	var state *batch.LimitState
	if spec.Limit != nil {
		_, of, err := s.admit(len(again), *spec.Limit, false)
		if err != nil {
			return nil, nil, err
		}
		state = &of
	}
	for _, r := range again {
		*b.Counts.Of(r.Outcome)--
		b.Counts.Pending++
		r.Outcome = batch.Pending
	}
	b.Status, b.EndedAt, b.throttle = batch.StatusQueued, time.Time{}, spec.Throttle
	c := b.Batch
	return &c, state, nil
}

func (s *fakeStore) Cancel(_ context.Context, owner, id string) (*batch.Batch, error) {
	unlock, err := s.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	b, err := s.find(owner, id)
	if err != nil {
		return nil, err
	}
	if b.Status.Terminal() {
		return nil, fmt.Errorf("cancel: %w", batch.ErrTerminal)
	}
	begun := b.Status != batch.StatusQueued // then its last action is in flight
	for i, r := range b.results {
		if !r.Outcome.Final() && (!begun || b.Counts.Pending > 1) {
			s.end(b, i, &batch.Result{Outcome: batch.Cancelled})
		}
	}
	b.Status = batch.StatusCancelling
	if b.Counts.Pending == 0 {
		b.Status, b.EndedAt = batch.StatusCancelled, s.now()
	}
	view := b.Batch
	return &view, nil
}

func (s *fakeStore) Delete(_ context.Context, owner, id string) error {
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := s.find(owner, id); err != nil {
		return err
	}
	delete(s.batches, id)
	return nil
}

func (s *fakeStore) Deliveries(_ context.Context, owner, id string) (*batch.DeliveryLog, error) {
	unlock, err := s.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	b, err := s.find(owner, id)
	if err != nil {
		return nil, err
	}
	if b.WebhookURL == "" {
		return nil, fmt.Errorf("deliveries: %w", batch.ErrNoWebhook)
	}
	log := b.log
	return &log, nil
}

func (s *fakeStore) Redeliver(_ context.Context, owner, id string) error {
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	b, err := s.find(owner, id)
	switch {
	case err != nil:
		return err
	case b.WebhookURL == "":
		return fmt.Errorf("redeliver: %w", batch.ErrNoWebhook)
	case !b.Status.Terminal():
		return fmt.Errorf("redeliver: %w", batch.ErrNotTerminal)
	}
	now := s.now()
	b.log.State, b.log.NextAt = batch.DeliveryPending, &now
	return nil
}

func (s *fakeStore) Watch(id string) (<-chan *batch.Batch, func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := make(chan *batch.Batch, 1)
	if s.watchers[id] == nil {
		s.watchers[id] = make(map[chan *batch.Batch]struct{})
	}
	s.watchers[id][w] = struct{}{}
	return w, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.watchers[id], w)
	}
}

// watching returns the number of open watches.
func (s *fakeStore) watching() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, w := range s.watchers {
		n += len(w)
	}
	return n
}

func (s *fakeStore) Ping(context.Context) error {
	unlock, err := s.lock()
	if err == nil {
		unlock()
	}
	return err
}
