package ledger

import (
	"maps"
	"sync"
	"time"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/batches"
)

const (
	// attemptLasts is how long an attempt that has ended is remembered. It is longer
	// than a failover takes, whose last writes may be lost.
	attemptLasts = 30 * time.Second
	// attemptBytes bounds the memory of ended attempts and their results. Beyond it the oldest are dropped.
	attemptBytes = 16 << 20
)

// attempts remembers the actions that this process runs, and for a while their ends. If Redis
// forgets them, only this memory shows whether an action was sent.
type attempts struct {
	mu      sync.Mutex
	running map[actionKey]*attempt // the newest of each action that runs or begins
	ended   recentAttempts
	// verified is up to where they were compared with Redis, by the ages at which that is done.
	verified [len(verifyAfter)]uint64
}

// actionKey names an action.
type actionKey struct {
	id    string
	index int
}

// Attempt is one attempt at an action.
type attempt struct {
	actionKey
	entry batches.Entry
	// state is its action's: stateBeginning, stateRunning, stateWaiting once it was
	// released, or that of its result.
	state  string
	result []byte         // sealed
	group  []any          // what ended the group that the action leads: further arguments of its step
	staged map[int][]byte // of a group: the results of members that its record holds, sealed
	leads  bool           // the action leads a group
	before *attempt       // the one before that is in flight, until this one has begun
	at     time.Time      // when it ended
}

// States of attempts that have no result; see batches/lua/states.lua.
const (
	stateBeginning = "b" // its begin is under way; nothing is sent
	stateRunning   = "r"
	stateWaiting   = "p"
)

// finished reports whether the attempt led to a result.
func (a *attempt) finished() bool {
	return a != nil && a.state != stateBeginning && a.state != stateRunning && a.state != stateWaiting
}

func newAttempts() *attempts {
	return &attempts{running: make(map[actionKey]*attempt), ended: newRecentAttempts()}
}

// begin notes that an action is about to be begun with a token.
func (m *attempts) begin(id string, index int, token string) *attempt {
	key := actionKey{id, index}
	m.mu.Lock()
	defer m.mu.Unlock()
	a := &attempt{actionKey: key, entry: batches.Entry{Token: token}, state: stateBeginning, before: m.running[key]}
	m.running[key] = a
	return a
}

// begun notes that an attempt has begun in a round of its batch: the action is in flight.
func (m *attempts) begun(a *attempt, b *batch.Begun, round string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a.entry, a.state, a.leads, a.before = entryOf(b, round), stateRunning, b.Group != nil, nil
	m.ended.forget(a.actionKey)
}

// notBegun forgets an attempt that did not begin.
func (m *attempts) notBegun(a *attempt) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.drop(a)
}

// drop forgets an attempt that runs or begins, with the lock held.
func (m *attempts) drop(a *attempt) {
	last := m.running[a.actionKey]
	if last != a {
		for ; last != nil; last = last.before {
			if last.before == a {
				last.before = a.before
			}
		}
		return
	}
	if a.before != nil {
		m.running[a.actionKey] = a.before
	} else {
		delete(m.running, a.actionKey)
	}
}

// before returns a copy of the attempt before one that is not begun yet, or nil.
func (m *attempts) before(a *attempt) *attempt {
	m.mu.Lock()
	defer m.mu.Unlock()
	if a.before != nil {
		before := *a.before
		return &before
	}
	return m.ended.find(a.actionKey)
}

// find returns an attempt that runs or begins by its token, or nil, with the lock held.
func (m *attempts) find(id string, index int, token string) *attempt {
	a := m.running[actionKey{id, index}]
	for a != nil && a.entry.Token != token {
		a = a.before
	}
	return a
}

// running returns a copy of an attempt that is in flight here, or nil.
func (m *attempts) findRunning(id string, index int, token string) *attempt {
	m.mu.Lock()
	defer m.mu.Unlock()
	a := m.find(id, index, token)
	if a == nil || a.state != stateRunning {
		return nil
	}
	found := *a
	return &found
}

// stage notes the result of a member of a group that is in flight here, by its leader.
func (m *attempts) addStaged(id string, leader int, token string, member int, result []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if a := m.find(id, leader, token); a != nil && a.state == stateRunning {
		if a.staged == nil {
			a.staged = make(map[int][]byte)
		}
		a.staged[member] = result
	}
}

// staged returns the results of members of a group that were noted here.
func (m *attempts) staged(id string, leader int, token string) map[int][]byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	noted := make(map[int][]byte)
	if a := m.find(id, leader, token); a != nil {
		maps.Copy(noted, a.staged)
	}
	return noted
}

// end notes what became of an attempt that was in flight here.
func (m *attempts) end(id string, index int, token, state string, result []byte, group []any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a := m.find(id, index, token)
	if a == nil || a.state != stateRunning {
		return
	}
	if a.leads && state == stateWaiting {
		m.drop(a) // its record has its progress
		return
	}
	a.state, a.result, a.group, a.staged, a.at = state, result, group, nil, time.Now()
	m.drop(a)
	m.ended.add(a)
	m.expire(a.at)
}

// uncount has an attempt that is in flight here count for none: nothing was sent.
func (m *attempts) uncount(id string, index int, token string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if a := m.find(id, index, token); a != nil && a.state == stateRunning {
		a.entry.Attempts--
	}
}

// groupSize is about how many bytes the attempt keeps of what ended its group.
func (a *attempt) groupSize() (n int) {
	for _, arg := range a.group {
		if sealed, ok := arg.([]byte); ok {
			n += len(sealed)
		}
	}
	return n
}

// expire forgets attempts that ended too long ago, or that are too much, with the lock held.
func (m *attempts) expire(now time.Time) { m.ended.expire(now.Add(-attemptLasts), attemptBytes) }

// abandon forgets an attempt if it is in flight here: it is not any more, and what became
// of it is not known.
func (m *attempts) abandon(id string, index int, token string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if a := m.find(id, index, token); a != nil && a.state == stateRunning {
		m.drop(a)
	}
}

// All returns copies of the attempts that are in flight or have ended lately.
func (m *attempts) all() []*attempt {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expire(time.Now())
	all := m.ended.all()
	for _, last := range m.running {
		for a := last; a != nil; a = a.before {
			if a.state != stateBeginning {
				found := *a
				all = append(all, &found)
			}
		}
	}
	return all
}

// busy reports whether any attempt is in flight or has ended lately.
func (m *attempts) busy() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expire(time.Now())
	return len(m.running)+len(m.ended.newest) > 0
}

// known returns a copy of the attempt with that token, if there is one, and whether the
// action is in the hands of this process under whatever token.
func (m *attempts) known(id string, index int, token string) (found *attempt, inHand bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := actionKey{id, index}
	for a := m.running[key]; a != nil; a = a.before {
		inHand = inHand || a.state == stateBeginning || a.state == stateRunning
		if a.entry.Token == token {
			same := *a
			found = &same
		}
	}
	if found == nil {
		if a := m.ended.find(key); a != nil && a.entry.Token == token {
			found = a
		}
	}
	return found, inHand
}
