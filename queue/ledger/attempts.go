package ledger

import (
	"maps"
	"sync"
	"time"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/batches"
)

const (
	// attemptLasts is how long a process remembers an attempt that has ended. It is longer
	// than a failover, which may lose the last writes.
	attemptLasts = 30 * time.Second
	// attemptBytes bounds the memory of ended attempts and their results. Beyond this size, the
	// process drops the oldest attempts.
	attemptBytes = 16 << 20
)

// attempts remembers the actions that this process runs, and for a while their ends. If Redis
// forgets them, only this memory shows whether an action was sent.
type attempts struct {
	mu      sync.Mutex
	running map[actionKey]*attempt // the newest of each action that runs or begins
	ended   recentAttempts
	// verified has, for each age of verifyAfter, the position in ended up to which the process has
	// compared attempts with Redis.
	verified [len(verifyAfter)]uint64
}

// actionKey names an action.
type actionKey struct {
	id    string
	index int
}

// attempt is one attempt at an action.
type attempt struct {
	actionKey
	entry batches.Entry
	// state is the state of the action: stateBeginning, stateRunning, stateWaiting after a
	// release, or the state of its result.
	state  string
	result []byte         // sealed
	group  []any          // arguments with which finish_group ended the group that the action leads
	staged map[int][]byte // sealed results of group members that this process saved with the group's record
	leads  bool           // the action leads a group
	before *attempt       // the earlier attempt that is in flight, until this one has begun
	at     time.Time      // when the attempt ended
}

// States of attempts that have no result; see batches/lua/states.lua.
const (
	stateBeginning = "b" // the begin step is under way; nothing is sent
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

// begin records that this process is about to begin an action with a token.
func (m *attempts) begin(id string, index int, token string) *attempt {
	key := actionKey{id, index}
	m.mu.Lock()
	defer m.mu.Unlock()
	a := &attempt{actionKey: key, entry: batches.Entry{Token: token}, state: stateBeginning, before: m.running[key]}
	m.running[key] = a
	return a
}

// begun records that an attempt has begun in a round of its batch: the action is in flight.
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

// before returns a copy of the attempt that precedes an attempt that has not begun yet, or nil.
func (m *attempts) before(a *attempt) *attempt {
	m.mu.Lock()
	defer m.mu.Unlock()
	if a.before != nil {
		before := *a.before
		return &before
	}
	return m.ended.find(a.actionKey)
}

// find looks up an attempt that runs or begins by its token, with the lock held. It returns nil
// if there is none.
func (m *attempts) find(id string, index int, token string) *attempt {
	a := m.running[actionKey{id, index}]
	for a != nil && a.entry.Token != token {
		a = a.before
	}
	return a
}

// findRunning returns a copy of an attempt that is in flight in this process, or nil.
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

// addStaged records the result of a group member. The group, named by its leader, is in flight in
// this process.
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

// staged returns the sealed results of group members that addStaged recorded, by index.
func (m *attempts) staged(id string, leader int, token string) map[int][]byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	results := make(map[int][]byte)
	if a := m.find(id, leader, token); a != nil {
		maps.Copy(results, a.staged)
	}
	return results
}

// end records the state in which an attempt of this process ended, and its sealed result. For a
// group, it keeps the arguments that ended the group.
func (m *attempts) end(id string, index int, token, state string, result []byte, group []any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a := m.find(id, index, token)
	if a == nil || a.state != stateRunning {
		return
	}
	if a.leads && state == stateWaiting {
		m.drop(a) // the group's record in Redis has the progress
		return
	}
	a.state, a.result, a.group, a.staged, a.at = state, result, group, nil, time.Now()
	m.drop(a)
	m.ended.add(a)
	m.expire(a.at)
}

// uncount takes an attempt of this process out of the action's count of attempts: the process sent
// nothing.
func (m *attempts) uncount(id string, index int, token string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if a := m.find(id, index, token); a != nil && a.state == stateRunning {
		a.entry.Attempts--
	}
}

// groupSize returns about how many bytes the arguments take that ended the attempt's group.
func (a *attempt) groupSize() (n int) {
	for _, arg := range a.group {
		if sealed, ok := arg.([]byte); ok {
			n += len(sealed)
		}
	}
	return n
}

// expire forgets attempts that ended longer than attemptLasts ago, and the oldest ones beyond
// attemptBytes, with the lock held.
func (m *attempts) expire(now time.Time) { m.ended.expire(now.Add(-attemptLasts), attemptBytes) }

// abandon forgets an attempt that was in flight in this process. The process no longer runs the
// attempt, and does not know how it ended.
func (m *attempts) abandon(id string, index int, token string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if a := m.find(id, index, token); a != nil && a.state == stateRunning {
		m.drop(a)
	}
}

// all returns copies of the attempts that are in flight or have ended lately.
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

// known returns a copy of the attempt with that token, or nil, and reports whether this process
// runs or begins the action, with any token.
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
